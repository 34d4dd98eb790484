"""Interruption: a program that gets a fatal signal while it waits for the server ends at once (vfs/semantics.md 3).

The kernel keeps a program in its request until the request is answered, even after SIGKILL. So this module replies EINTR in place
of the thread that serves the request. That thread continues to its end: nothing is cut short or undone. libfuse expects this, and
closes a file whose open nobody waited for. Only programs with a fatal signal get EINTR: on no disk does `stat` fail because of
signals of children, timers and windows.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import signal
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

from jobfs.background import Background

_log = logging.getLogger("jobfs.fuse.interrupt")


class Opcode(IntEnum):
    """The opcodes that this package handles (linux/fuse.h)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    OPEN = 14
    READ = 15
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    READDIR = 28
    CREATE = 35
    READDIRPLUS = 44


#: Requests in which a program may wait for the server, and which change nothing that is not recorded already.
_INTERRUPTIBLE = frozenset({
    Opcode.LOOKUP, Opcode.GETATTR, Opcode.OPEN, Opcode.READ, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR, Opcode.READDIRPLUS,
})  # fmt: skip


#: `fuse_in_header`: length, opcode, unique, node, uid, gid, thread, padding; then the flags of an open.
_HEADER = struct.Struct("=IIQQIII4xI")
#: Of the same header: opcode, unique, node; and its length in bytes.
HEAD, HEADER_END = struct.Struct("=4xIQQ"), 40
#: `fuse_out_header`: length, error, unique.
ANSWER = struct.Struct("=IiQ")

#: Seconds between checks of the waiting requests.
_LOOK = 0.1

#: Signals that end a program, at once or by its handler, as a mask of `/proc/PID/status`.
_FATAL_SIGNALS = sum(
    1 << number - 1
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
)


class Header(NamedTuple):
    """The header of a request in a slot's buffer; `sequence` distinguishes it from other requests in the same buffer."""

    sequence: int
    opcode: int
    unique: int
    thread: int
    flags: int


class Request:
    """A request while it is served: what libfuse's callbacks and the sender of its reply share."""

    #: True: the request is from a helper (see events.py) and must change nothing.
    injected = False
    #: The cache that the reply to a getattr goes into; None if the reply must not be reused.
    attr_cache: dict[str | int, bytes] | None = None
    #: True: the kernel must not cache the attributes in the reply.
    uncached_attr = False
    #: True: the LOOKUP has found a node at which another version is being read. Its reply is held back, and the LOOKUP is
    #: repeated once the node is detached from its path.
    detaching = False
    #: The handle with which a getattr must be repeated; 0 for none.
    handle = 0

    def __init__(self, opcode: int, node: int, began: int) -> None:
        """`began`: `KernelSizes.now` when the request was read. Other fields are class defaults, to make a request cheap."""
        self.opcode, self.node, self.began = opcode, node, began

    @property
    def no_fetch(self) -> bool:
        """Return whether attributes must come without a request to the server: those in a listing."""
        return self.opcode == Opcode.READDIRPLUS


class WorkerSlot:
    """The request buffer of one thread of the loop pool, and the request that the thread serves.

    `sequence` is odd while a request is served, as in a seqlock: another thread trusts what it reads in the buffer only if the
    sequence was odd, and is still the same afterwards.
    """

    def __init__(self, size: int) -> None:
        # A mapping takes memory only for pages that were written; `create_string_buffer` writes all of them.
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.buffer = (ctypes.c_char * size).from_buffer(memory)
        self.address = ctypes.addressof(self.buffer)
        #: The flags of an open or a getattr, after the header.
        self.flags = ctypes.c_uint32.from_buffer(self.buffer, 40)
        #: The handle of a getattr that names one.
        self.number = ctypes.c_uint64.from_buffer(self.buffer, 48)
        #: The current request, or else the last one.
        self.request = Request(0, 0, 0)
        #: libfuse's reply to a request that this process made.
        self.answer = b""
        self.sequence = 0
        #: The sequence of the last request that was answered with EINTR.
        self.answered = -1
        #: Not empty while the slot's thread may read requests (see loop.py). A list: only one of two threads can pop its entry.
        self.token: list[bool] = []
        self._last_sequence = 0

    @property
    def thread(self) -> int:
        """Return the id of the thread that made the request."""
        return int(_HEADER.unpack_from(self.buffer)[6])

    def stuck_request(self) -> Header | None:
        """Return the header of the current request if the last call of this method met the same one; else None."""
        sequence, last = self.sequence, self._last_sequence
        self._last_sequence = sequence
        if sequence % 2 == 0 or sequence != last:
            return None
        _, opcode, unique, _, _, _, thread, flags = _HEADER.unpack_from(self.buffer)
        return Header(sequence, opcode, unique, thread, flags) if self.sequence == sequence else None


class CurrentSlot(threading.local):
    """The slot of the current thread."""

    slot: WorkerSlot


def has_fatal_signal(thread: int) -> bool:
    """Return whether a signal that ends a program, at once or by its handler, is pending for the thread."""
    # Read as bytes: the program's name, which comes first, may be cut within a character.
    signals = dict.fromkeys((b"SigPnd", b"ShdPnd", b"SigBlk"), 0)
    # The thread may have ended, or belong to a user whose processes are hidden from this one: then the request keeps waiting.
    with suppress(OSError), open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            name, _, value = line.partition(b":")
            if name in signals:
                signals[name] = int(value, 16)
    return bool((signals[b"SigPnd"] | signals[b"ShdPnd"]) & ~signals[b"SigBlk"] & _FATAL_SIGNALS)


class Interrupter:
    """A background thread that replies EINTR to requests of programs with a fatal signal.

    Each check calls `revoke` with the slots that have served the same request since the last check.
    """

    def __init__(
        self, device: int, slots: Sequence[WorkerSlot], revoke: Callable[[list[WorkerSlot]], None]
    ) -> None:
        self._device, self._slots, self._revoke = device, slots, revoke
        self._thread = Background("interrupter", self.check_slots, first=_LOOK, retry=_LOOK)

    def start(self) -> None:
        """Start the checks."""
        self._thread.start()

    def stop(self) -> None:
        """End the checks, before the descriptor is closed."""
        self._thread.stop()
        self._thread.join()

    def check_slots(self) -> float:
        """Check all slots once; return the seconds until the next check."""
        found = [
            (slot, request) for slot in list(self._slots) if (request := slot.stuck_request()) is not None
        ]
        self._revoke([slot for slot, _ in found])
        for slot, request in found:
            if self._may_interrupt(slot, request) and has_fatal_signal(request.thread):
                slot.answered = request.sequence
                self._reply_interrupted(request)
        return _LOOK

    def _may_interrupt(self, slot: WorkerSlot, request: Header) -> bool:
        """Return whether the request is unanswered, and of a kind that may get EINTR."""
        if slot.answered == request.sequence or request.opcode not in _INTERRUPTIBLE or not request.thread:
            return False
        # A program must not find its file truncated by an open that failed with EINTR.
        return request.opcode != Opcode.OPEN or not request.flags & os.O_TRUNC

    def _reply_interrupted(self, request: Header) -> None:
        with suppress(OSError):  # the serving thread has just answered
            os.write(self._device, ANSWER.pack(ANSWER.size, -errno.EINTR, request.unique))
            _log.info("%s was interrupted", Opcode(request.opcode).name)

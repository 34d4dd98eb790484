"""Interruption: a program that is told to end while it waits for the server goes at once (vfs/semantics.md 3).

The kernel lets a program that waits in a request go only when the request is answered, even if the program was killed. So this
module answers EINTR in place of the thread at work. That thread goes on to its end: nothing is cut short or undone. libfuse
expects this, and closes a file whose open nobody waited for. Only programs that were told to end are answered: no disk lets a
stat fail for the signals of children, timers and windows.
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
    """Requests that are told apart here (linux/fuse.h)."""

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


#: Requests in which a program may wait for the server, and that change nothing, or only what is recorded already.
_INTERRUPTIBLE = frozenset({
    Opcode.LOOKUP, Opcode.GETATTR, Opcode.OPEN, Opcode.READ, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR, Opcode.READDIRPLUS,
})  # fmt: skip


#: `fuse_in_header`: length, opcode, unique, node, uid, gid, thread, padding; then, of an open, its flags.
_HEADER = struct.Struct("=IIQQIII4xI")
#: Of the same: opcode, unique, node; and where it ends.
HEAD, HEADER_END = struct.Struct("=4xIQQ"), 40
#: `fuse_out_header`: length, error, unique.
ANSWER = struct.Struct("=IiQ")

#: Seconds between looks at the requests that wait.
_LOOK = 0.1

_TO_END = sum(
    1 << number - 1
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
)


class Header(NamedTuple):
    """The header of a request in a slot's buffer; `sequence` distinguishes it from others in the same buffer."""

    sequence: int
    opcode: int
    unique: int
    thread: int
    flags: int


class Request:
    """A request while it is served: what libfuse's callbacks, and the sender of its reply, have to know of each other."""

    #: True: it is a helper's (see events.py), and changes nothing.
    injected = False
    #: Where the reply to a getattr is kept, if it lasts.
    attr_cache: dict[str | int, bytes] | None = None
    #: True: the kernel must not cache the attributes in the reply.
    uncached_attr = False
    #: True: the reply to a look-up is held back, and the look-up repeated once the node that it has found is off its path,
    #: because another version is being read there.
    detaching = False
    #: The number of a handle at the node, with which a getattr is repeated; else 0.
    handle = 0

    def __init__(self, opcode: int, node: int, began: int) -> None:
        """`began`: `KernelSizes.now` when the request was read. The rest has defaults: there is one of these for each request."""
        self.opcode, self.node, self.began = opcode, node, began

    @property
    def no_fetch(self) -> bool:
        """True if the server is asked nothing for attributes: those in a listing."""
        return self.opcode == Opcode.READDIRPLUS


class WorkerSlot:
    """Where one thread of the loop pool has the request that it is at work on.

    `sequence` is odd while there is one: a thread that looks at the buffer of another believes it only if the turn is odd,
    and the same before and after.
    """

    def __init__(self, size: int) -> None:
        # Only the pages of a mapping that were written take memory; `create_string_buffer` writes all of them.
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.buffer = (ctypes.c_char * size).from_buffer(memory)
        self.address = ctypes.addressof(self.buffer)
        #: The flags of an open or a getattr; they follow the header.
        self.flags = ctypes.c_uint32.from_buffer(self.buffer, 40)
        #: Of a getattr with a handle: its number.
        self.number = ctypes.c_uint64.from_buffer(self.buffer, 48)
        #: The request that is being served, or was last.
        self.request = Request(0, 0, 0)
        #: What libfuse has answered to a request of ours.
        self.answer = b""
        self.sequence = 0
        #: The last turn whose request was answered early.
        self.answered = -1
        #: Not empty while its thread may read (see loop.py). A list, because only one of two threads can pop its entry.
        self.token: list[bool] = []
        self._seen = 0

    @property
    def thread(self) -> int:
        """The thread that made the request at work."""
        return int(_HEADER.unpack_from(self.buffer)[6])

    def stuck_request(self) -> Header | None:
        """The request under way, if it was there at the last look already."""
        turn, seen = self.sequence, self._seen
        self._seen = turn
        if turn % 2 == 0 or turn != seen:
            return None
        _, opcode, unique, _, _, _, thread, flags = _HEADER.unpack_from(self.buffer)
        return Header(turn, opcode, unique, thread, flags) if self.sequence == turn else None


class CurrentSlot(threading.local):
    """The slot of the thread that asks."""

    slot: WorkerSlot


def has_fatal_signal(thread: int) -> bool:
    """True if a signal that is meant to end the thread's program, at once or by a handler, waits for the thread."""
    # As bytes: the name of the program, which comes first, may be cut within a character.
    signals = dict.fromkeys((b"SigPnd", b"ShdPnd", b"SigBlk"), 0)
    # The thread may have ended, or belong to a user whose processes are hidden from us: then the request just waits.
    with suppress(OSError), open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            name, _, value = line.partition(b":")
            if name in signals:
                signals[name] = int(value, 16)
    return bool((signals[b"SigPnd"] | signals[b"ShdPnd"]) & ~signals[b"SigBlk"] & _TO_END)


class Interrupter:
    """Looks at the requests at the slots, and answers those of programs that were told to end.

    `revoke` gets the slots that were at work on the same request at the last look already.
    """

    def __init__(
        self, device: int, slots: Sequence[WorkerSlot], revoke: Callable[[list[WorkerSlot]], None]
    ) -> None:
        self._device, self._slots, self._revoke = device, slots, revoke
        self._thread = Background("interrupter", self.check_slots, first=_LOOK, retry=_LOOK)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, before the descriptor is closed."""
        self._thread.stop()
        self._thread.join()

    def check_slots(self) -> float:
        """Look at all slots once; return the seconds until the next look."""
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
        """True if the request has no answer yet, and its program may get EINTR."""
        if slot.answered == request.sequence or request.opcode not in _INTERRUPTIBLE or not request.thread:
            return False
        # A program that is told of an interruption must not find the file empty.
        return request.opcode != Opcode.OPEN or not request.flags & os.O_TRUNC

    def _reply_interrupted(self, request: Header) -> None:
        with suppress(OSError):  # it was answered just now, as usual
            os.write(self._device, ANSWER.pack(ANSWER.size, -errno.EINTR, request.unique))
            _log.info("%s was interrupted", Opcode(request.opcode).name)

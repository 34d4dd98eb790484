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


class Request(NamedTuple):
    """What is known of a request from its header; `turn` tells it from others in the same buffer."""

    turn: int
    opcode: int
    unique: int
    thread: int
    flags: int


class Desk:
    """Where one thread of the loop pool has the request that it is at work on.

    `turn` is odd while there is one: a thread that looks at the buffer of another believes it only if the turn is odd,
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
        #: Where the answer about a node is kept, if it lasts.
        self.keeping: dict[str | int, bytes] | None = None
        #: True: the kernel is to keep the attributes in the answer for no time.
        self.brief = False
        #: True: the answer to a look-up is held back, because another version is being read at its node.
        self.parting = False
        #: Of a getattr that is to be repeated, the number of a handle at its node; else 0.
        self.handle = 0
        #: True: a listing is being made, and the server is asked nothing for the attributes in it.
        self.listing = False
        #: True: the request is a helper's (see telling.py), and does nothing.
        self.told = False
        #: What libfuse has answered to a request of ours.
        self.answer = b""
        self.turn = 0
        #: `KernelSizes.now` when the request was read.
        self.began = 0
        #: The last turn whose request was answered early.
        self.answered = -1
        #: Not empty while its thread may read (see loop.py). A list, because only one of two threads can pop its entry.
        self.reads: list[bool] = []
        self._seen = 0

    @property
    def thread(self) -> int:
        """The thread that made the request at work."""
        return int(_HEADER.unpack_from(self.buffer)[6])

    def waiting(self) -> Request | None:
        """The request under way, if it was there at the last look already."""
        turn, seen = self.turn, self._seen
        self._seen = turn
        if turn % 2 == 0 or turn != seen:
            return None
        _, opcode, unique, _, _, _, thread, flags = _HEADER.unpack_from(self.buffer)
        return Request(turn, opcode, unique, thread, flags) if self.turn == turn else None


class AtWork(threading.local):
    """The desk of the thread that asks."""

    desk: Desk


def told_to_end(thread: int) -> bool:
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
    """Looks at the requests at the desks, and answers those of programs that were told to end.

    `relieve` gets the desks that were at work on the same request at the last look already.
    """

    def __init__(self, device: int, desks: Sequence[Desk], relieve: Callable[[list[Desk]], None]) -> None:
        self._device, self._desks, self._relieve = device, desks, relieve
        self._thread = Background("interrupter", self.look, first=_LOOK, retry=_LOOK)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, before the descriptor is closed."""
        self._thread.stop()
        self._thread.join()

    def look(self) -> float:
        """Look at all desks once; return the seconds until the next look."""
        found = [(desk, request) for desk in list(self._desks) if (request := desk.waiting()) is not None]
        self._relieve([desk for desk, _ in found])
        for desk, request in found:
            if self._is_answered_early(desk, request) and told_to_end(request.thread):
                desk.answered = request.turn
                self._answer(request)
        return _LOOK

    def _is_answered_early(self, desk: Desk, request: Request) -> bool:
        """True if the request has no answer yet, and its program may get EINTR."""
        if desk.answered == request.turn or request.opcode not in _INTERRUPTIBLE or not request.thread:
            return False
        # A program that is told of an interruption must not find the file empty.
        return request.opcode != Opcode.OPEN or not request.flags & os.O_TRUNC

    def _answer(self, request: Request) -> None:
        with suppress(OSError):  # it was answered just now, as usual
            os.write(self._device, ANSWER.pack(ANSWER.size, -errno.EINTR, request.unique))
            _log.info("%s was interrupted", Opcode(request.opcode).name)

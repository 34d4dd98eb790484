"""Interruption: a program that is told to end while it waits for the server goes at once (vfs/semantics.md 3).

The kernel lets a program that waits in a request go only when that is answered, even one that is killed. So the answer, EINTR,
is given here in place of the thread that is at work. That goes on to its end: nothing is cut short or undone. libfuse expects
that, and closes again what nobody waited for to be opened. Only programs that were told to end are answered: no disk lets a stat
fail for the signals of children, timers and windows.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import logging
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

_log = logging.getLogger("jobfs.fuse.interrupt")


class Opcode(IntEnum):
    """Requests that are told apart here (linux/fuse.h)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    UNLINK = 10
    OPEN = 14
    READ = 15
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    READDIR = 28
    CREATE = 35
    READDIRPLUS = 44


#: Those in which a program may wait for the server, and that change nothing, or what is recorded already.
_INTERRUPTIBLE = frozenset({
    Opcode.LOOKUP, Opcode.GETATTR, Opcode.OPEN, Opcode.READ, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR, Opcode.READDIRPLUS,
})  # fmt: skip


#: `fuse_in_header`: length, opcode, unique, node, uid, gid, thread, padding; then, of an open, its flags.
_HEADER = struct.Struct("=IIQQIII4xI")
#: Of the same: opcode, unique, node.
HEAD = struct.Struct("=4xIQQ")
#: `fuse_out_header`: length, error, unique.
ANSWER = struct.Struct("=IiQ")

#: Seconds between looks at who waits, and looks from one to the next at who was told to end.
_LOOK, _SIGNALS = 0.05, 4
#: Seconds until a read is answered. It may be that of a page of a memory map, for which an error is SIGBUS: a server that
#: is just slow must not bring that on a program which would have had the time to tidy up.
_READ_PATIENCE = 1.0

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

    `turn` is odd while there is one: who looks at the buffer from another thread believes it only if the turn is the
    same, and odd, before and after.
    """

    def __init__(self, size: int) -> None:
        self.buffer = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self.buffer)
        #: Of an open or a getattr; after the header.
        self.flags = ctypes.c_uint32.from_buffer(self.buffer, 40)
        #: Of a getattr with a handle: its number.
        self.number = ctypes.c_uint64.from_buffer(self.buffer, 48)
        #: Where the answer about a node is kept, if it lasts.
        self.keeping: dict[str | int, bytes] | None = None
        #: The attributes in the answer are good for no time.
        self.brief = False
        #: The answer to a look-up is held back: another version is being read at its node.
        self.parting = False
        #: Of a getattr that is to be repeated, the number of a handle at its node; else 0.
        self.handle = 0
        #: A listing is being made: nothing is asked of the server for the attributes in it.
        self.listing = False
        #: What libfuse has answered to a request of ours.
        self.answer = b""
        self.turn = 0
        #: The last turn whose request was answered early.
        self.answered = -1
        #: Not empty while its thread may read (see loop.py). A list, because only one of two threads can take it away.
        self.reads: list[bool] = []
        self.since = 0.0
        self._seen = 0

    @property
    def thread(self) -> int:
        """The thread that made the request at work."""
        return int(_HEADER.unpack_from(self.buffer)[6])

    def waiting(self, now: float) -> Request | None:
        """The request under way, if it was there at the last look already; `since` is when it was seen first."""
        turn = self.turn
        if turn % 2 == 0:
            return None
        if turn != self._seen:
            self._seen, self.since = turn, now
            return None
        _, opcode, unique, _, _, _, thread, flags = _HEADER.unpack_from(self.buffer)
        return Request(turn, opcode, unique, thread, flags) if self.turn == turn else None


class AtWork(threading.local):
    """The desk of the thread that asks."""

    desk: Desk


def told_to_end(thread: int) -> bool:
    """True if a signal that is meant to end its program waits for a thread (one that is killed, or by a handler)."""
    # As bytes: the name of the program, which comes first, may be cut within a character.
    signals = dict.fromkeys((b"SigPnd", b"ShdPnd", b"SigBlk"), 0)
    # It may have ended, or belong to a user whose processes are hidden from us: then it just waits.
    with suppress(OSError), open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            name, _, value = line.partition(b":")
            if name in signals:
                signals[name] = int(value, 16)
    return bool((signals[b"SigPnd"] | signals[b"ShdPnd"]) & ~signals[b"SigBlk"] & _TO_END)


class Interrupter:
    """Looks at who waits at the desks, and answers those who were told to end.

    `relieve` gets the desks that were at work on the same request at the last look already.
    """

    def __init__(
        self,
        device: int,
        desks: Sequence[Desk],
        relieve: Callable[[list[Desk]], None] = lambda desks: None,
    ) -> None:
        self._device = device
        self._relieve = relieve
        self._desks = desks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="interrupter", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, before the descriptor is closed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopping.wait(_LOOK):
                return
            self.look(time.monotonic(), signals=number % _SIGNALS == 0)

    def look(self, now: float, *, signals: bool = True) -> None:
        """One look at all desks; `signals`: and at who was told to end."""
        found = [(desk, request) for desk in list(self._desks) if (request := desk.waiting(now)) is not None]
        self._relieve([desk for desk, _ in found])
        for desk, request in found if signals else ():
            if self._is_answered_early(desk, request, now) and told_to_end(request.thread):
                desk.answered = request.turn
                self._answer(request)

    def _is_answered_early(self, desk: Desk, request: Request, now: float) -> bool:
        """True if the request has no answer yet, and its program may get EINTR."""
        if desk.answered == request.turn or request.opcode not in _INTERRUPTIBLE or not request.thread:
            return False
        if request.opcode == Opcode.OPEN and request.flags & os.O_TRUNC:
            return False  # who is told that it was interrupted must not find the file empty later
        return request.opcode != Opcode.READ or now - desk.since >= _READ_PATIENCE

    def _answer(self, request: Request) -> None:
        # ENOENT: it was answered just now, as usual.
        with suppress(FileNotFoundError):
            try:
                os.write(self._device, ANSWER.pack(ANSWER.size, -errno.EINTR, request.unique))
                _log.info("%s was interrupted", Opcode(request.opcode).name)
            except OSError as error:
                _log.info("%s could not be interrupted: %s", Opcode(request.opcode).name, error)

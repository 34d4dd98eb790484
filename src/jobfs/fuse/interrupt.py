"""Interruption: a program that gets a fatal signal while it waits for the server ends at once (vfs/semantics.md 3).

The kernel keeps a program in its request until the request is answered, even after SIGKILL. So this module replies EINTR in place
of the thread that serves the request. That thread continues to its end: nothing is cut short or undone. libfuse expects this, and
closes a file whose open nobody waited for. Only programs with a fatal signal get EINTR: on no disk does `stat` fail because of
signals of children, timers and windows.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from jobfs.background import Background
from jobfs.fuse.requests import REPLY_HEADER, Header, Opcode, WorkerSlot

_log = logging.getLogger("jobfs.fuse.interrupt")

#: Requests in which a program may wait for the server, and which change nothing that is not recorded already.
_INTERRUPTIBLE = frozenset({
    Opcode.LOOKUP, Opcode.GETATTR, Opcode.OPEN, Opcode.READ, Opcode.FSYNC, Opcode.FLUSH, Opcode.READDIR, Opcode.READDIRPLUS,
})  # fmt: skip

#: Seconds between checks of the waiting requests.
_POLL_INTERVAL = 0.1

#: Signals that end a program, at once or by its handler, as a mask of `/proc/PID/status`.
_FATAL_SIGNALS = sum(
    1 << number - 1
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
)


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
    """A background thread that replies EINTR to waiting requests of programs that have received a fatal signal.

    Each check also calls `revoke` with the slots that still serve the request which they served at the last check.
    """

    def __init__(
        self, device: int, slots: Sequence[WorkerSlot], revoke: Callable[[list[WorkerSlot]], None]
    ) -> None:
        self._device, self._slots, self._revoke = device, slots, revoke
        self._thread = Background("interrupter", self.check_slots, first=_POLL_INTERVAL, retry=_POLL_INTERVAL)

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
                slot.interrupted_sequence = request.sequence
                self._reply_interrupted(request)
        return _POLL_INTERVAL

    def _may_interrupt(self, slot: WorkerSlot, request: Header) -> bool:
        """Return whether the request is unanswered, and of a kind that may get EINTR."""
        if (
            slot.interrupted_sequence == request.sequence
            or request.opcode not in _INTERRUPTIBLE
            or not request.thread
        ):
            return False
        # A program must not find its file truncated by an open that failed with EINTR.
        return request.opcode != Opcode.OPEN or not request.flags & os.O_TRUNC

    def _reply_interrupted(self, request: Header) -> None:
        with suppress(OSError):  # the serving thread has just answered
            os.write(self._device, REPLY_HEADER.pack(REPLY_HEADER.size, -errno.EINTR, request.unique))
            _log.info("%s was interrupted", Opcode(request.opcode).name)

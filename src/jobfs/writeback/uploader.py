"""When transactions run: after a delay in the background, or at once for fsync; retried with backoff (semantics.md section 4).

Transactions on one target run one after another, what was unlinked first, then in the order of their numbers; all others
in parallel. `hold` keeps a subtree still while a directory above it is renamed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from jobfs import names
from jobfs.errors import REFUSALS, FsError, JobfsError, UnavailableError
from jobfs.writeback.records import State
from jobfs.writeback.transaction import Transaction

log = logging.getLogger("jobfs.writeback")

_BACKOFF_FIRST = 0.5
_BACKOFF_MOST = 60.0
#: After every transaction (see `_order`).
_LAST = (True, sys.maxsize)


class Uploader:
    """Owns the live transactions and the threads that run them."""

    def __init__(self, run: Callable[[Transaction], None], *, workers: int, timeout: float) -> None:
        """`run` takes one transaction as far as it goes now; `timeout`: seconds an fsync keeps trying."""
        self._run = run
        self._timeout = timeout
        self._turn = threading.Condition()
        self._live: dict[int, Transaction] = {}
        self._held: list[str] = []
        self._stopping = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="jobfs-upload")
        self._clock = threading.Thread(target=self._tick, name="jobfs-uploader", daemon=True)

    def start(self) -> None:
        """Begin to run what is due."""
        self._clock.start()

    def add(self, work: Transaction, delay: float) -> None:
        """Know a transaction that is not done; it is due in `delay` seconds. Again: its due time is set anew."""
        with self._turn:
            if work.save.state is State.DONE:
                return
            self._live[work.save.seq] = work
            work.due = time.monotonic() + delay
            self._turn.notify_all()

    def remove(self, work: Transaction) -> None:
        """Forget a transaction that is done."""
        with self._turn:
            self._live.pop(work.save.seq, None)
            self._turn.notify_all()

    def live(self) -> list[Transaction]:
        """Every transaction that is not done, oldest first."""
        with self._turn:
            return [self._live[seq] for seq in sorted(self._live)]

    @property
    def waiting(self) -> int:
        """How many transactions are not done."""
        return len(self._live)

    def take(self, work: Transaction) -> bool:
        """True if `work` was at rest and untouched: it is out of the queue now and the caller's."""
        with self._turn:
            if work.running or not work.untouched:
                return False
            self._live.pop(work.save.seq, None)
            return True

    @contextlib.contextmanager
    def resting(self, work: Transaction) -> Iterator[bool]:
        """Keep a save that was not begun from beginning meanwhile; False if it has begun."""
        with self._turn:
            still = work.untouched and not work.running and work.save.seq in self._live
            work.running = work.running or still
        try:
            yield still
        finally:
            if still:
                with self._turn:
                    work.running = False
                    self._turn.notify_all()

    def commit(self, work: Transaction, timeout: float | None = None) -> None:
        """Return when the server has it; runs it here if nobody does.

        Raises what refused it, or UnavailableError after `timeout` seconds of trying (then it is tried on later).
        """
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = 0.05
        while not work.settled:
            with self._turn:
                blocker = self._blocker(work)
                # One that was taken out is being changed, or dropped, by whoever did that.
                free = work.save.seq in self._live and not work.running and not self._is_held(work)
                if blocker is None and free:
                    work.running = True
                elif blocker is None or blocker.running:
                    if (
                        not self._turn.wait(max(deadline - time.monotonic(), 0.0))
                        and deadline < time.monotonic()
                    ):
                        raise UnavailableError(f"{work.save.target}: still waiting", errno=errno.ETIMEDOUT)
                    if work.save.state is State.CANCELLED:
                        return
                    continue
            if blocker is not None:
                self.commit(blocker, max(deadline - time.monotonic(), 0.0))
                continue
            try:
                self._attempt(work)
            except UnavailableError as error:
                wait = max(pause * random.uniform(0.5, 1.0), error.wait)
                if time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
                pause = min(pause * 2, 2.0)
            if work.save.state is State.CANCELLED:
                return

    def _attempt(self, work: Transaction) -> None:
        """One run of a claimed transaction, and what its outcome means for the next."""
        try:
            self._run(work)
            work.error = None
            work.attempts = 0
        except JobfsError as error:
            work.error = error
            work.attempts += 1
            raise
        except BaseException as error:
            work.error = FsError(errno.EIO, f"internal error: {error!r}")
            work.attempts += 1
            log.exception("%s: a save failed in an unexpected way", work.save.target)
            raise work.error from error
        finally:
            with self._turn:
                work.running = False
                if work.attempts:
                    wait = min(_BACKOFF_FIRST * 2 ** min(work.attempts, 10), _BACKOFF_MOST)
                    asked = work.error.wait if isinstance(work.error, UnavailableError) else 0.0
                    work.due = time.monotonic() + max(wait * random.uniform(0.5, 1.0), asked)
                self._turn.notify_all()

    @contextlib.contextmanager
    def hold(self, prefix: str, timeout: float) -> Iterator[None]:
        """Keep everything at or below `prefix` at rest; waits for what runs there, `timeout` seconds at most."""
        deadline = time.monotonic() + timeout
        with self._turn:
            self._held.append(prefix)
            while any(work.running and _within(work, prefix) for work in self._live.values()):
                if not self._turn.wait(max(deadline - time.monotonic(), 0.0)) and deadline < time.monotonic():
                    self._held.remove(prefix)
                    raise UnavailableError(f"{prefix} is being saved", errno=errno.ETIMEDOUT)
        try:
            yield
        finally:
            with self._turn:
                self._held.remove(prefix)
                self._turn.notify_all()

    def drain(self, timeout: float, under: str | None = None) -> list[Transaction]:
        """Try to bring everything (at or below `under`) to the server in `timeout` seconds; returns what is left."""
        deadline = time.monotonic() + timeout
        with self._turn:
            for work in self._live.values():
                if not work.save.refused and not work.attempts:
                    work.due = 0.0
            self._turn.notify_all()
            while left := self._unsent(under):
                going = [work for work in left if not work.save.refused]
                remaining = deadline - time.monotonic()
                if not going or remaining <= 0:
                    return left
                self._turn.wait(min(remaining, 0.5))
        return []

    def taken_back(self, under: str) -> None:
        """Return when what was unlinked below `under` while it was saved is off the server (R10).

        Raises UnavailableError(ETIMEDOUT).
        """
        with self._turn:
            left = [w for w in self._live.values() if w.save.state is State.CANCELLED and _within(w, under)]
            for work in left:
                work.due = 0.0
            self._turn.notify_all()
            if not self._turn.wait_for(
                lambda: not any(work.save.seq in self._live for work in left), self._timeout
            ):
                raise UnavailableError(
                    f"{under}: what was unlinked in it is still there", errno=errno.ETIMEDOUT
                )

    def unsent(self, under: str | None = None) -> list[Transaction]:
        """Transactions that the server does not have yet."""
        with self._turn:
            return self._unsent(under)

    def _unsent(self, under: str | None) -> list[Transaction]:
        return [
            work
            for work in self._live.values()
            if not work.settled
            and work.save.state is not State.CANCELLED
            and (under is None or _within(work, under))
        ]

    def stop(self) -> None:
        """Run nothing more; returns when what runs has come to rest."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if self._clock.is_alive():
            self._clock.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _blocker(self, work: Transaction) -> Transaction | None:
        """A transaction on the same target that has to end first."""
        before = [
            other
            for other in self._live.values()
            if other.save.target == work.save.target and not other.settled and _order(other) < _order(work)
        ]
        return min(before, key=_order, default=None)

    def _is_held(self, work: Transaction) -> bool:
        return any(_within(work, prefix) for prefix in self._held)

    def _due(self, now: float) -> list[Transaction]:
        """What may run now, found in one pass: there may be thousands, and each that ends makes for another look."""
        first: dict[str, tuple[bool, int]] = {}
        for work in self._live.values():
            if not work.settled:
                first[work.save.target] = min(_order(work), first.get(work.save.target, _LAST))
        return [
            work
            for work in self._live.values()
            if work.due <= now
            and (work.attempts or not work.settled)
            and not (work.running or work.save.refused or self._is_held(work))
            and first.get(work.save.target, _LAST) >= _order(work)
        ]

    def _tick(self) -> None:
        while True:
            with self._turn:
                if self._stopping:
                    return
                now = time.monotonic()
                due = self._due(now)
                for work in due:
                    work.running = True
                if not due:
                    coming = [
                        w.due for w in self._live.values() if w.due > now and not w.running and not w.settled
                    ]
                    self._turn.wait(min(min(coming, default=now + 60.0) - now + 0.001, 60.0))
                    continue
            for work in due:
                self._pool.submit(self._in_background, work)

    def _in_background(self, work: Transaction) -> None:
        try:
            self._attempt(work)
        except REFUSALS:
            pass
        except JobfsError as error:
            log.info("%s: tried again later: %s", work.save.target, error)


def _order(work: Transaction) -> tuple[bool, int]:
    """What was unlinked ends first: a file that is renamed to its name may have been made before."""
    return work.save.state is not State.CANCELLED, work.save.seq


def _within(work: Transaction, prefix: str) -> bool:
    return work.save.target == prefix or names.under(work.save.target, prefix)

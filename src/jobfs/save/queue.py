"""When Changes run: after a delay in the background, or at once for fsync (semantics.md section 4).

Changes of one target run one after another (State.before), none where a name is reserved; all others in parallel, by at most as
many threads as there are connections. What was begun, and what has to be cleaned up, goes before what is to be sent; while more
than a few dozen hidden items stand in the workspace nothing more is begun.

Backing off belongs to the server, not to a file (api/health.py): nothing begins while it wants to be left alone; in an outage
one Change a second asks whether it is back, and once it is, all that had failed is due.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import random
import threading
import time
from collections.abc import Callable

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import REFUSALS, FsError, JobfsError, OutOfTimeError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Context
from jobfs.save.remove import Remove
from jobfs.save.replace import Replace
from jobfs.state import Change, File
from jobfs.state.records import Stage, Verb
from jobfs.state.tables import is_unmade

log = logging.getLogger("jobfs.save")

#: Seconds until a Change that failed runs again, at first and at most.
_BACKOFF, _MOST = 0.5, 8.0
#: Seconds between two that ask whether an outage is over, and between looks whether they may.
_ASK, _LOOK = 1.0, 0.25
#: Most hidden items of saves that may stand in the workspace when another save is begun.
_HIDDEN = 40
#: Seconds that an open file which was flushed may wait to be sent.
WHILE_OPEN = 3600.0
#: Most seconds that a thread waits before it looks again.
_LONGEST = 60.0


class Queue:
    """Runs the Changes of one mount. May be called from any thread."""

    def __init__(
        self, context: Context, replace: Replace, remove: Remove, cleanup: Cleanup, *, delay: float
    ) -> None:
        """`delay` in seconds from the close of a file to its upload."""
        self._context = context
        self._state = context.state
        self._replace = replace
        self._remove = remove
        self._cleanup = cleanup
        self.delay = delay
        self._reservations = context.state.reservations
        self._turn = self._reservations.turn
        #: Due times: of what was not begun, and of the rest.
        self._new: list[tuple[float, int, Change]] = []
        self._begun: list[tuple[float, int, Change]] = []
        #: What is due and has to wait: for another Change, by the number of that, or for a reservation.
        self._blocked: dict[int, list[Change]] = {}
        self._reserved: list[Change] = []
        self._ended = 0
        #: Changes that may have something hidden on the server.
        self._out: dict[int, Change] = {}
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._restraint = context.client.restraint
        self._recoveries = self._restraint.recoveries
        self._asked = 0.0
        self._stopping = False

    # -- life

    def start(self) -> None:
        """Begin to run what is due."""
        with self._turn:
            self._start_thread()

    def stop(self) -> None:
        """Run nothing more; returns when what runs has come to rest."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join()

    # -- what is to run

    def save(self, file: File, delay: float | None = None) -> Change | None:
        """A File has something to be sent: its Change, due in `delay` seconds (None: the mount's delay); None if it has not."""
        with self._state.lock:
            if file.refused or file.path is None or not (file.unsaved or is_unmade(file)):
                return None
            change = file.change
            if change is None:
                verb = Verb.MKDIR if file.kind is Kind.DIRECTORY else Verb.PUT
                change = self._state.change(verb, file.path, file)
        if not change.begun:
            # Else the newer bytes are sent when it ends.
            self.add(change, self.delay if delay is None else delay)
        return change

    def add(self, change: Change, delay: float) -> None:
        """A Change is due in `delay` seconds."""
        with self._turn:
            self._push(change, time.monotonic() + delay)
            self._turn.notify_all()

    def wake(self) -> None:
        """The state has Changes to clean up."""
        with self._turn:
            self._turn.notify_all()

    def hurry(self, wanted: Callable[[Change], bool]) -> None:
        """What has not been tried yet, of what is wanted, is due now."""
        with self._state.lock:
            found = [c for c in self._state.changes.values() if not (c.settled or c.attempts) and wanted(c)]
        now = time.monotonic()
        with self._turn:
            for change in found:
                if not change.running:
                    self._push(change, now)
            self._turn.notify_all()

    def _push(self, change: Change, due: float) -> None:
        change.due = due
        heapq.heappush(self._begun if change.begun else self._new, (due, change.seq, change))

    # -- the threads

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"jobfs-save-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while True:
            with self._turn:
                change = self._next()
                if change is None:
                    return
                if not self._idle and len(self._threads) < self._context.client.max_connections:
                    self._start_thread()
            try:
                with deadline.bound_by(change.deadline):
                    self._attempt(change)
            except REFUSALS:
                pass
            except JobfsError as error:
                log.info("%s: tried again later: %s", change.target, error)

    def _next(self) -> Change | None:
        """Wait for a Change that may run, and claim it; None at the end."""
        while not self._stopping:
            self._take_back()
            now = time.monotonic()
            change = self._ready(now) if self._may_begin(now) else None
            if change is not None:
                self._claim(change, deadline.Deadline(self._context.timeout, waited=False))
                return change
            self._idle += 1
            self._turn.wait(self._until_next(now))
            self._idle -= 1
        return None

    def _ready(self, now: float) -> Change | None:
        """The Change that is to run now; in an outage one that asks whether the server is back, though it is not due."""
        change = self._due(now)
        if change is None and self._restraint.out:
            self._ask_early(now)
            change = self._due(now)
        return change

    def _until_next(self, now: float) -> float:
        """Seconds until something may be due."""
        coming = [heap[0][0] - now for heap in (self._begun, self._new) if heap]
        # What is due and may not be begun yet is looked at when something ends.
        wait = min((seconds for seconds in coming if seconds > 0), default=_LONGEST)
        # Who ends a Change without running it tells nobody.
        held_back = self._restraint.out or self._restraint.wait(changing=True) > 0 or bool(self._blocked)
        return min(wait, _LOOK if held_back else _LONGEST) + 0.001

    def _may_begin(self, now: float) -> bool:
        """True if the server is not to be left alone; in an outage once a second, for one Change."""
        restraint = self._restraint
        if self._recoveries != restraint.recoveries:
            self._recoveries = restraint.recoveries
            self._all_at_once(now)
        if restraint.wait(changing=True) > 0:
            return False
        if restraint.out:
            if now - self._asked < _ASK:
                return False
            self._asked = now
        return True

    def _all_at_once(self, now: float) -> None:
        """The server is back: what had failed meanwhile is due, however often it had."""
        for change in self._failed(now):
            change.attempts = 0
            self._push(change, now)

    def _ask_early(self, now: float) -> None:
        """Nothing is due that could ask whether the server is back: of what failed, the next has its turn."""
        failed = [change for change in self._failed(now) if isinstance(change.error, UnavailableError)]
        if failed:
            self._push(min(failed, key=lambda change: change.due), now)

    def _failed(self, now: float) -> list[Change]:
        """What waits until it is tried again."""
        with self._state.lock:
            changes = list(self._state.changes.values())
        return [change for change in changes if change.attempts and change.due > now and not change.running]

    def _take_back(self) -> None:
        """What waited for a Change or a reservation that has ended, and what has come to cleanup, is due."""
        now = time.monotonic()
        while self._state.rested:
            for blocked in self._blocked.pop(self._state.rested.popleft(), ()):
                self._push(blocked, now)
        if self._ended != self._reservations.ended:
            self._ended = self._reservations.ended
            waiting, self._reserved = self._reserved, []
            for change in waiting:
                self._push(change, now)
        while self._state.to_clean:
            change = self._state.to_clean.popleft()
            if change.stage is not Stage.DONE:
                self._push(change, now)

    def _due(self, now: float) -> Change | None:
        """The Change that is next and may run now."""
        change = self._first(self._begun, now)
        if change is None and self._hidden() < _HIDDEN:
            change = self._first(self._new, now)
        return change

    def _first(self, heap: list[tuple[float, int, Change]], now: float) -> Change | None:
        """The first Change that is due and may run."""
        while heap and heap[0][0] <= now:
            due, _, change = heapq.heappop(heap)
            if due != change.due or change.running or change.seq not in self._state.changes:
                continue
            if change.settled:
                return change
            if (earlier := self._state.before(change)) is not None:
                self._blocked.setdefault(earlier.seq, []).append(change)
            elif not self._reservations.may_start(change.target):
                self._reserved.append(change)
            else:
                return change
        return None

    def _hidden(self) -> int:
        """How many Changes may have something hidden on the server that does not have to wait there (R7)."""
        now = time.time()
        return sum(
            not any(aside.unsure_until > now for aside in change.asides) for change in self._out.values()
        )

    def _claim(self, change: Change, until: deadline.Deadline) -> None:
        """It is about to run; `until`: the deadline of that run."""
        change.begun = True
        change.deadline = until
        self._out[change.seq] = change
        if not change.settled:
            self._reservations.start(change.target)

    # -- one run

    def _attempt(self, change: Change) -> None:
        """One run of a claimed Change, and what its outcome means for the next. Raises what came of it."""
        target, resting, again, error = change.target, change.settled, 0.0, None
        try:
            again = self._run(change)
        except JobfsError as failure:
            error = failure
            raise
        except Exception as failure:
            log.exception("%s: a save failed in an unexpected way", change.target)
            error = FsError(errno.EIO, f"internal error: {failure!r}")
            raise error from failure
        finally:
            with self._turn:
                change.deadline, change.error = None, error
                change.attempts = change.attempts + 1 if error is not None else 0
                if not resting:
                    self._reservations.end(target)
                self._again(change, again)
                self._turn.notify_all()  # whoever waits until all is cleaned up

    def _run(self, change: Change) -> float:
        """Take a Change as far as it goes now; returns when to come back, in epoch seconds, 0.0 for at once or never."""
        if change.over:
            return self._cleanup.finish(change)
        if change.verb is Verb.REMOVE:
            self._remove.run(change)
        else:
            self._replace.run(change)
        return 0.0

    def _again(self, change: Change, when: float) -> None:
        """When it runs again, and its File's next Change."""
        now = time.monotonic()
        if change.stage is Stage.DONE:
            self._out.pop(change.seq, None)
        elif change.error is not None:
            pause = min(_BACKOFF * 2 ** min(change.attempts - 1, 4), _MOST) * random.uniform(0.5, 1.0)
            asked = change.error.wait if isinstance(change.error, UnavailableError) else 0.0
            self._push(change, now + max(pause, asked))
        else:
            self._push(change, now + max(when - time.time(), 0.0) if when else now)
        file = change.file
        if file is not None and file.change is None:
            # Newer bytes waited in the File: they are its next Change.
            self.save(file, WHILE_OPEN if any(handle.writable for handle in file.handles) else None)

    # -- for those who wait

    def commit(self, change: Change) -> None:
        """Return when the server has the outcome, or it was cancelled; runs it here if nobody does.

        Raises what refused it, or UnavailableError when the time of this thread's call is up (then it is tried on later).
        """
        try:
            self._drive(change, self._over)
        except JobfsError:
            with self._turn:
                if not (change.begun or self._over(change)):
                    # The time was over before its turn came.
                    self._push(change, time.monotonic())
                    self._turn.notify_all()
            raise

    def _over(self, change: Change) -> bool:
        return change.over or change.seq not in self._state.changes

    def _drive(self, change: Change, over: Callable[[Change], bool]) -> None:
        """Run a Change here, and before it what has to come first, until it is over. Raises what ended that."""
        if deadline.current() is None:
            with deadline.within(self._context.timeout):
                return self._drive(change, over)
        pause, failed = 0.05, None
        while (first := self._take_turn(change, over)) is not None:
            try:
                self._attempt(first)
            except OutOfTimeError as error:
                # What went wrong before says more.
                raise failed or error from None
            except UnavailableError as error:
                failed = error
                wait = max(pause * random.uniform(0.5, 1.0), error.wait)
                if wait >= deadline.left(self._context.timeout):
                    raise
                time.sleep(wait)
                pause = min(pause * 2, 2.0)
            except JobfsError:
                if first is change:
                    raise
        return None

    def _take_turn(self, change: Change, over: Callable[[Change], bool]) -> Change | None:
        """Wait until a run of this Change may begin here; the one that has to run first, claimed; None if it is over."""
        with self._turn:
            self._await(change, over)
            if over(change):
                return None
            first, until = self._state.before(change) or change, deadline.current()
            assert until is not None
            self._claim(first, until)
            return first

    def _await(self, change: Change, over: Callable[[Change], bool]) -> None:
        """Wait until it is over, or may run here; what runs for it meanwhile has this call's place, and its progress is ours."""

        def ready() -> bool:
            return over(change) or self._free(change)

        while not ready():
            attempt = self._under_way(change)
            with attempt.joined(deadline.current()) if attempt else contextlib.nullcontext():
                deadline.wait_for(
                    self._turn,
                    lambda attempt=attempt: ready() or self._under_way(change) is not attempt,  # type: ignore[misc]
                    f"{change.target} is being saved",
                )

    def _under_way(self, change: Change) -> deadline.Deadline | None:
        """The deadline of the run that has to end first."""
        first = self._state.before(change) or change
        return first.deadline

    def _free(self, change: Change) -> bool:
        first = self._state.before(change) or change
        return not first.running and self._reservations.may_start(first.target)

    def drain(self, timeout: float, under: str) -> bool:
        """Wait until nothing at or below `under` is left to be sent that is not refused; False after `timeout` seconds."""
        self.hurry(lambda change: within(change.target, under))
        end = time.monotonic() + timeout
        with self._turn:
            while self.left(under):
                remaining = end - time.monotonic()
                if remaining <= 0:
                    return False
                self._turn.wait(min(remaining, 0.5))
        return True

    def left(self, under: str) -> bool:
        """True if something at or below `under` is still to be done on the server, cleanup apart."""
        with self._state.lock:
            return any(
                not change.over
                # Nobody can be told any more that an unlink is refused: that is tried now and then.
                and not (change.verb is Verb.REMOVE and isinstance(change.error, REFUSALS))
                and within(change.target, under)
                for change in self._state.changes.values()
            )

    def cleaned(self, timeout: float, *, waiting: bool) -> bool:
        """Wait until nothing is left to clean up (`waiting`: what has to wait for R7 too); False after `timeout` seconds."""
        end = time.monotonic() + timeout
        with self._turn:
            while self.to_clean(waiting=waiting):
                remaining = end - time.monotonic()
                if remaining <= 0:
                    return False
                self._turn.wait(min(remaining, 0.2))
        return True

    def to_clean(self, *, waiting: bool) -> int:
        """How many Changes are left to clean up now (`waiting`: with those that have to wait for R7)."""
        now = time.time()
        with self._state.lock:
            return sum(
                change.over
                and (waiting or not change.asides or any(a.unsure_until <= now for a in change.asides))
                for change in self._state.changes.values()
            )

    def rest(self, path: str) -> None:
        """Return when what was begun at or below `path` is placed, and what waits there to be done is done. Raises ApiError."""
        while True:
            with self._state.lock:
                found = [
                    change
                    for change in self._state.changes.values()
                    if any(within(name, path) for name in (change.target, *change.shows))
                    and self._unrest(change)
                ]
            if not found:
                return
            for change in found:
                self._drive(change, lambda change: not self._unrest(change))

    @staticmethod
    def _unrest(change: Change) -> bool:
        if change.over:
            return change.unfinished
        return change.begun or change.verb in (Verb.MOVE, Verb.REMOVE)


def within(path: str, prefix: str) -> bool:
    """True if `path` is `prefix`, or lies below it."""
    return not prefix or path == prefix or names.under(path, prefix)

"""When Changes run: after a delay in the background, or at once for fsync (vfs/semantics.md 4).

Changes of one target run one after another (`Changes.predecessor_of`), none while its name is reserved, all others in parallel.
What was begun or has to be cleaned up goes before what is new. At most 32 saves, of two hidden items each, stand in the
workspace: with so many no Change begins, and fsync waits too. Nothing begins while the server wants to be left alone
(api/health.py).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jobfs import names
from jobfs.api import deadline
from jobfs.background import Background
from jobfs.errors import REFUSALS, FsError, HeldBackError, JobfsError, OutOfTimeError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save.context import Context
from jobfs.save.items import ItemRequests
from jobfs.save.replace import Replacer
from jobfs.state import Change, File
from jobfs.state.records import Stage, Verb

log = logging.getLogger("jobfs.save")

#: Seconds until a Change that failed runs again, at first and at most.
_BACKOFF, _MOST = 0.5, 8.0
#: Seconds between looks whether the server may be asked again.
_LOOK = 0.25
#: Most saves that have hidden items in the workspace.
MOST_HIDING = 32
#: Changes that are due within so many seconds begin at once if more than so many of them wait.
_EARLY, _CROWD = 0.5, 32
#: Seconds that a closed file may wait to be sent while a program still has it open to write to it.
WHILE_OPEN = 60.0


class ChangeQueue:
    """Runs the Changes of one mount. May be called from any thread."""

    def __init__(self, context: Context, replacer: Replacer, items: ItemRequests, *, delay: float) -> None:
        """`delay` in seconds from the close of a file to its upload."""
        self._context = context
        self._state = context.state
        self._replace = replacer
        self._items = items
        self.delay = delay
        self._reservations = context.state.reservations
        self._lock = context.state.lock
        #: Changes by their due times: those that need room to begin, and the rest.
        self._new: list[tuple[float, int, Change]] = []
        self._begun: list[tuple[float, int, Change]] = []
        #: Changes that were claimed and have not ended: their hidden items count.
        self._running: dict[int, Change] = {}
        self._most = context.client.max_connections
        self._pool = ThreadPoolExecutor(self._most, "jobfs-save")
        #: How many of these threads have a Change.
        self._busy = 0
        self._thread = Background("jobfs-queue", self._dispatch, retry=_LOOK)
        self._health = context.client.health

    def start(self) -> None:
        """Begin to run Changes that are due."""
        self._thread.start()

    def stop(self) -> None:
        """Run nothing more; returns when all runs have ended."""
        self._thread.stop()
        self.wake()
        self._thread.join()
        self._pool.shutdown()

    def schedule(self, file: File, delay: float | None = None, by: float = 0.0) -> Change | None:
        """The Change that sends a File, due in `delay` seconds or at `by` (monotonic seconds); None if nothing is to be sent.

        Without a `delay` the mount's counts; while a program can write to the file, `WHILE_OPEN`. What is due earlier stays so.
        """
        with self._lock:
            change = self.change_of(file)
            if change is None:
                return None
            due = min(self._due_after_close(file, delay), by or math.inf)
            if not change.started and not 0 < change.due <= due:
                # If it was begun, the newer bytes are sent when it ends.
                self._push(change, due)
                self._lock.notify_all()
            return change

    def change_of(self, file: File) -> Change | None:
        """Return the Change that sends a File, made if need be and then not due yet; None if nothing is to be sent."""
        with self._lock:
            if file.refused or file.path is None or not file.is_unsent:
                return None
            verb = Verb.MKDIR if file.kind is Kind.DIRECTORY else Verb.PUT
            return file.change or self._state.plan_change(verb, file.path, file)

    def _due_after_close(self, file: File, delay: float | None) -> float:
        """When a File that was closed now is to be sent (monotonic seconds)."""
        if delay is None:
            delay = WHILE_OPEN if file.is_open_for_writing else self.delay
        return time.monotonic() + delay

    def add_change(self, change: Change, delay: float) -> None:
        """A Change is due in `delay` seconds."""
        with self._lock:
            self._push(change, time.monotonic() + delay)
            self._lock.notify_all()

    def wake(self) -> None:
        """The state has Changes to clean up."""
        with self._lock:
            self._lock.notify_all()

    def _push(self, change: Change, due: float) -> None:
        change.due = due
        heap = self._new if _needs_room(change) else self._begun
        heapq.heappush(heap, (due, change.seq, change))

    def _dispatch(self) -> float:
        """Hand the next Change that may run to a thread of the pool."""
        if (change := self._claim_next()) is not None:
            try:
                self._pool.submit(self._run_in_pool, change)
            except RuntimeError as error:
                log.warning("no thread for another save: %s", error)  # another thread takes it
        return 0.0

    def _run_in_pool(self, change: Change) -> None:
        try:
            with deadline.use_deadline(change.deadline):
                self._run_claimed(change)
        except JobfsError as error:
            log.info("%s: not done this time: %s", change.target, error)
        finally:
            with self._lock:
                self._busy -= 1
                self._lock.notify_all()

    def _claim_next(self) -> Change | None:
        """Wait for a Change that may run, and claim it; None at the end."""
        with self._lock:
            while not self._thread.stopping.is_set():
                now = time.monotonic()
                self._requeue_ready(now)
                change = self._choose_next(now)
                if change is not None:
                    self._busy += 1
                    self._claim(change, deadline.Deadline(self._context.timeout, foreground=False))
                    return change
                # A moment if one that is due was held back, or the server is to be asked whether it is back.
                due = min((heap[0][0] - now for heap in (self._begun, self._new) if heap), default=WHILE_OPEN)
                self._lock.wait(_LOOK if self._health.is_in_outage or due <= 0 else due + 0.001)
        return None

    def _requeue_ready(self, now: float) -> None:
        """Queue the Changes that waited for one that has ended, or have only cleanup left."""
        for change in set(self._state.changes.ready):
            if change.is_finished or change.due > 0.0:
                self._push(change, now if change.is_finished else max(now, change.due))
        self._state.changes.ready.clear()

    def _choose_next(self, now: float) -> Change | None:
        """The Change that is to run now; None while the server is to be left alone."""
        if self._busy >= self._most or self._health.background_delay(changing=True) > 0:
            return None
        change = self._first_due(self._begun, now)
        if change is None and self._has_room():
            soon = now + _EARLY
            waiting = sum(entry[0] <= soon and self._is_current(entry) for entry in self._new[: 3 * _CROWD])
            change = self._first_due(self._new, soon if waiting > _CROWD else now)
        return change

    def _is_current(self, entry: tuple[float, int, Change]) -> bool:
        """False for an entry that was overtaken: the Change has a newer one, runs, or has ended."""
        due, seq, change = entry
        return due == change.due and not change.is_running and seq in self._state.changes

    def _first_due(self, heap: list[tuple[float, int, Change]], until: float) -> Change | None:
        """The first Change that is due `until` then (monotonic seconds) and may run."""
        while heap and heap[0][0] <= until:
            entry = heapq.heappop(heap)
            change = entry[2]
            if not self._is_current(entry):
                continue
            if change.is_settled:
                return change
            if self._state.changes.predecessor_of(change) is not None:
                continue  # the state hands it out again when the other is at rest
            held = self._reservations.find_blocking(change.target)
            if held is None:
                return change
            held.waiting.append(change)
        return None

    def _has_room(self) -> bool:
        """True if the hidden items of one more save may stand in the workspace."""
        self._running = {seq: change for seq, change in self._running.items() if seq in self._state.changes}
        return sum(map(_has_hidden_items, self._running.values())) < MOST_HIDING

    def _claim(self, change: Change, until: deadline.Deadline) -> None:
        change.started = True
        change.deadline, change.due = until, time.monotonic()
        self._running[change.seq] = change

    def _run_claimed(self, change: Change) -> None:
        """Run a claimed Change as far as it goes now, and set when it runs again. Raises the error of the run."""
        later, error, file = 0.0, None, change.file
        try:
            if change.is_finished:
                later = self._replace.clean_up(change)
            elif change.verb is Verb.REMOVE:
                self._items.run_change(change)
            else:
                self._replace.run_change(change)
        except JobfsError as failure:
            error = failure
            raise
        except Exception as failure:
            log.exception("%s: a save failed in an unexpected way", change.target)
            error = FsError(errno.EIO, f"internal error: {failure!r}")
            raise error from failure
        finally:
            self._reschedule(change, file, error, later)

    def _reschedule(self, change: Change, file: File | None, error: JobfsError | None, later: float) -> None:
        """A run has ended: the Change runs again at `later` (monotonic s), or after a pause; newer bytes are its File's next."""
        pause = max(later - time.monotonic(), 0.0)
        if error is not None:
            pause = deadline.retry_delay(change.attempts, error, first=_BACKOFF, most=_MOST)
        with self._lock:
            change.deadline, change.error = None, error
            change.attempts = change.attempts + 1 if error is not None else 0
            if change.stage is not Stage.DONE:
                self._push(change, time.monotonic() + pause)
            if file is not None and file.change is None:
                self.schedule(file)
            self._lock.notify_all()

    def run_until_finished(self, change: Change) -> None:
        """Return when a Change is over. Raises the server's refusal, or UnavailableError when this call's time is up."""
        self._run_until(change, lambda change: change.is_finished)

    def _run_until(self, change: Change, is_over: Callable[[Change], bool]) -> None:
        """Run a Change here, after those that have to come first, until it is over. Raises the error that ended it."""
        with (
            contextlib.nullcontext()
            if deadline.current_deadline()
            else deadline.limit_time(self._context.timeout)
        ):
            if not is_over(change):
                self._context.client.require_reachable(change.target)
            attempt = 0
            while (first := self._claim_here(change, is_over)) is not None:
                late: JobfsError = deadline.timeout_error(f"{change.target} is being saved")
                try:
                    self._run_claimed(first)
                    if self._state.changes.predecessor_of(change) is not first:
                        continue
                except (OutOfTimeError, HeldBackError):
                    raise  # the server is not asked any more
                except JobfsError as error:
                    if first is change and not isinstance(error, UnavailableError):
                        raise
                    late = error
                deadline.sleep_before_retry(deadline.retry_delay(attempt, late), late, self._context.timeout)
                attempt += 1

    def _claim_here(self, change: Change, is_over: Callable[[Change], bool]) -> Change | None:
        """Wait until this Change, or one that has to run before it, may run here, and claim that; None if it is over."""
        until = deadline.current_deadline()
        assert until is not None
        with self._lock:
            while not is_over(change):
                first = self._state.changes.predecessor_of(change) or change
                runs, held = first.deadline, self._reservations.find_blocking(first.target) is not None
                if not (runs or held or (_needs_room(first) and not self._has_room())):
                    self._claim(first, until)
                    return first
                # A run for which this call waits has the call's place, and its progress counts as the call's.
                with runs.attach_waiter(until) if runs else contextlib.nullcontext():
                    deadline.wait_notified(self._lock, f"{change.target} is being saved")
        return None

    def drain(self, timeout: float, under: str) -> bool:
        """Send what is at or below `under` now; False if something of it is left after `timeout` seconds and is not refused."""
        with self._lock:
            for change in self._state.changes.values():
                tried = change.is_settled or change.attempts or change.is_running
                if not tried and names.is_at_or_below(change.target, under):
                    self._push(change, time.monotonic())
        return self._wait_for_zero(lambda: self._state.backlog(under).has_waiting, timeout) == 0

    def count_uncleaned(self, timeout: float, *, waiting: bool) -> int:
        """How many Changes are left to clean up after at most `timeout` seconds (`waiting`: with those that wait for R7)."""

        def left() -> int:
            now = time.monotonic()
            return sum(
                change.is_finished
                and (waiting or not change.asides or any(a.unsure_until <= now for a in change.asides))
                for change in self._state.changes.values()
            )

        return self._wait_for_zero(left, timeout)

    def _wait_for_zero(self, count: Callable[[], int], timeout: float) -> int:
        """Wait until nothing is left, `timeout` seconds at most; returns how much is."""
        end = time.monotonic() + timeout
        with self._lock:
            self._lock.notify_all()
            while (number := count()) and (remaining := end - time.monotonic()) > 0:
                self._lock.wait(min(remaining, 0.2))
        return number

    def wait_idle(self, *paths: str) -> None:
        """Return when no Change holds these names or any below them (`Changes.holding_names`). Raises ApiError."""
        while found := self._state.changes.holding_names(*paths):
            for change in found:
                self._run_until(change, lambda change: not change.holds_names)

    def wait_in_flight(self, verb: Verb, *paths: str) -> None:
        """Return when no Change of one kind is in flight at these very names (`Changes.in_flight_at`). Raises ApiError."""
        while found := self._state.changes.in_flight_at(verb, *paths):
            for change in found:
                self.run_until_finished(change)


def _needs_room(change: Change) -> bool:
    """True if a Change begins only if there is room for its hidden items: a removal has none."""
    return not change.started and change.verb is not Verb.REMOVE


def _has_hidden_items(change: Change) -> bool:
    """True if a Change has hidden items on the server, or may have."""
    # Removed directories do not count, nor what a server refuses to delete: else nothing would be saved any more.
    return change.verb is not Verb.REMOVE and not isinstance(change.error, REFUSALS) and not change.direct

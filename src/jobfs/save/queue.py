"""When Changes run: after a delay in the background, or at once for fsync (vfs/semantics.md 4).

Changes of one target run one after another (`Changes.predecessor_of`), Changes of different targets in parallel. None runs while
an operation holds its name. Changes that were started, or have only cleanup left, run before new ones. At most 32 saves, of two
hidden items each, have items in the workspace, apart from those whose cleanup has failed; then no further save starts, and fsync
waits too. Nothing starts in the background while the server asks for a pause or is in an outage (api/health.py).
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
from dataclasses import dataclass

from jobfs import names
from jobfs.api import deadline
from jobfs.background import Background
from jobfs.errors import FsError, HeldBackError, JobfsError, OutOfTimeError, UnavailableError
from jobfs.nodes import Kind
from jobfs.save.context import Context
from jobfs.save.items import ItemRequests
from jobfs.save.replace import Replacer
from jobfs.state import Change, File
from jobfs.state.records import Stage, Verb

log = logging.getLogger("jobfs.save")

#: Most saves that have hidden items in the workspace at a time.
MOST_HIDING = 32
#: Seconds until a closed file is sent if a program still has it open for writing.
WHILE_OPEN = 60.0


@dataclass(frozen=True)
class QueueLimits:
    """The bounds of a queue; times are in seconds.

    A failed Change runs again after `first_delay`, and after `max_delay` at most; if only its asides are left, after
    `max_cleanup_delay`: thousands of these must leave the threads to others. `poll_interval` is the time between checks whether
    background requests may be sent again. At most `max_hiding` saves, apart from those whose cleanup has failed, have hidden
    items in the workspace at a time. If more than `crowd` new Changes are due within `early` seconds, they start at once.
    """

    first_delay: float = 0.5
    max_delay: float = 8.0
    max_cleanup_delay: float = 300.0
    poll_interval: float = 0.25
    max_hiding: int = MOST_HIDING
    early: float = 0.5
    crowd: int = 32


LIMITS = QueueLimits()


class ChangeQueue:
    """Runs the Changes of a mount. Every method may be called from any thread."""

    def __init__(self, context: Context, replacer: Replacer, items: ItemRequests, *, delay: float) -> None:
        """`delay`: seconds from the close of a file to its upload."""
        self._context = context
        self._state = context.state
        self._replacer = replacer
        self._items = items
        self.delay = delay
        self.limits = LIMITS
        self._reservations = context.state.reservations
        self._lock = context.state.lock
        #: Heaps of Changes by due time: Changes that need room to start, and all others.
        self._new_heap: list[tuple[float, int, Change]] = []
        self._started_heap: list[tuple[float, int, Change]] = []
        #: Changes that were claimed to be placed and have not ended, by number: their hidden items count.
        self._running: dict[int, Change] = {}
        self._most = context.client.max_connections
        self._pool = ThreadPoolExecutor(self._most, "jobfs-save")
        #: How many threads of the pool have a Change.
        self._busy = 0
        self._thread = Background("jobfs-queue", self._dispatch, retry=LIMITS.poll_interval)
        self._health = context.client.health

    def start(self) -> None:
        """Start to run Changes that are due."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further run, and wait until all runs have ended."""
        self._thread.stop()
        self.wake()
        self._thread.join()
        self._pool.shutdown()

    def schedule(self, file: File, delay: float | None = None, at_latest: float = 0.0) -> Change | None:
        """Schedule the Change that sends a File in `delay` seconds, or at `at_latest` (monotonic seconds) if that is earlier.

        The default delay is the mount's, or `WHILE_OPEN` while a program has the file open for writing. A Change that is due
        earlier stays so. Return the Change, None if there is nothing to send.
        """
        with self._lock:
            change = self.find_or_plan_change(file)
            if change is None:
                return None
            due = min(self._due_after_close(file, delay), at_latest or math.inf)
            if not change.started and not 0 < change.due <= due:
                # Once it has started, newer bytes are scheduled when it ends.
                self._push(change, due)
                self._lock.notify_all()
            return change

    def find_or_plan_change(self, file: File) -> Change | None:
        """Return the Change that sends a File, None if there is nothing to send. A Change planned here is not due yet."""
        with self._lock:
            if file.refused or file.path is None or not file.is_unsent:
                return None
            verb = Verb.MKDIR if file.kind is Kind.DIRECTORY else Verb.PUT
            return file.change or self._state.plan_change(verb, file.path, file)

    def _due_after_close(self, file: File, delay: float | None) -> float:
        """Return when a File that is closed now becomes due (monotonic seconds)."""
        if delay is None:
            delay = WHILE_OPEN if file.is_open_for_writing else self.delay
        return time.monotonic() + delay

    def add_change(self, change: Change, delay: float) -> None:
        """Make a Change due in `delay` seconds."""
        with self._lock:
            self._push(change, time.monotonic() + delay)
            self._lock.notify_all()

    def wake(self) -> None:
        """Wake the queue: Changes are ready, or the queue is stopping."""
        with self._lock:
            self._lock.notify_all()

    def _push(self, change: Change, due: float) -> None:
        change.due = due
        heap = self._new_heap if _adds_hidden_items(change) else self._started_heap
        heapq.heappush(heap, (due, change.seq, change))

    def _dispatch(self) -> float:
        """Wait for the next Change that may run, and hand it to a thread of the pool.

        Return the seconds until the next call, 0.
        """
        if (change := self._claim_next()) is not None:
            try:
                self._pool.submit(self._run_in_pool, change)
            except RuntimeError as error:
                # The Change stays in the pool's queue, for a thread that is running.
                log.warning("no thread for another save: %s", error)
        return 0.0

    def _run_in_pool(self, change: Change) -> None:
        try:
            with deadline.use_deadline(change.deadline):
                self._run_claimed(change)
        except JobfsError as error:
            log.info("%s: this attempt failed: %s", change.target, error)
        finally:
            with self._lock:
                self._busy -= 1
                self._lock.notify_all()

    def _claim_next(self) -> Change | None:
        """Wait for a Change that may run, and claim it; return None once the queue stops."""
        with self._lock:
            while not self._thread.stopping.is_set():
                now = time.monotonic()
                self._requeue_ready(now)
                change = self._pop_next(now)
                if change is not None:
                    self._busy += 1
                    self._claim(change, deadline.Deadline(self._context.timeout, foreground=False))
                    return change
                # Wait a moment only, if a due Change was held back, or to ask whether the server has recovered.
                due = min(
                    (heap[0][0] - now for heap in (self._started_heap, self._new_heap) if heap),
                    default=WHILE_OPEN,
                )
                poll = self._health.is_limited_to_probes or due <= 0
                self._lock.wait(self.limits.poll_interval if poll else due + 0.001)
        return None

    def _requeue_ready(self, now: float) -> None:
        """Queue the ready Changes: those that waited for another Change, and those that have only cleanup left."""
        for change in set(self._state.changes.ready):
            if change.places_nothing_more or change.due > 0.0:
                self._push(change, now if change.places_nothing_more else max(now, change.due))
        self._state.changes.ready.clear()

    def _pop_next(self, now: float) -> Change | None:
        """Take the next Change to run from its heap; None if none is due, all threads are busy, or the server needs a pause."""
        if self._busy >= self._most or self._health.background_delay(changing=True) > 0:
            return None
        change = self._pop_due(self._started_heap, now)
        if change is None and self._may_add_hidden_items():
            soon, crowd = now + self.limits.early, self.limits.crowd
            waiting = sum(
                entry[0] <= soon and self._is_current(entry) for entry in self._new_heap[: 3 * crowd]
            )
            change = self._pop_due(self._new_heap, soon if waiting > crowd else now)
        return change

    def _is_current(self, entry: tuple[float, int, Change]) -> bool:
        """Return whether a heap entry is current: not if its Change has a newer entry, is running, or has ended."""
        due, seq, change = entry
        return due == change.due and not change.is_running and seq in self._state.changes

    def _pop_due(self, heap: list[tuple[float, int, Change]], until: float) -> Change | None:
        """Take from the heap the first Change that is due by `until` (monotonic seconds) and may run; None if there is none."""
        while heap and heap[0][0] <= until:
            entry = heapq.heappop(heap)
            change = entry[2]
            if not self._is_current(entry):
                continue
            if change.is_settled:
                return change
            if self._state.changes.predecessor_of(change) is not None:
                continue  # `Changes.ready` has it again once the predecessor has settled
            held = self._reservations.find_blocking(change.target)
            if held is None:
                return change
            held.waiting.append(change)
        return None

    def _may_add_hidden_items(self) -> bool:
        """Return whether one more save may have hidden items in the workspace."""
        self._running = {seq: change for seq, change in self._running.items() if seq in self._state.changes}
        return sum(map(_has_hidden_items, self._running.values())) < self.limits.max_hiding

    def _claim(self, change: Change, until: deadline.Deadline) -> None:
        change.started = True
        change.deadline, change.due = until, time.monotonic()
        if not change.places_nothing_more:
            # Not what an earlier mount has placed: its asides wait (R7), and there may be any number whose cleanup had failed.
            self._running[change.seq] = change

    def _run_claimed(self, change: Change) -> None:
        """Run a claimed Change as far as it gets, then reschedule it. Raises the error of the run."""
        later, error, file = 0.0, None, change.file
        try:
            if change.places_nothing_more:
                later = self._replacer.clean_up(change)
            elif change.verb is Verb.REMOVE:
                self._items.run_removal(change)
            else:
                self._replacer.run_change(change)
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
        """Reschedule a Change after a run: at `later` (monotonic seconds), or after an error with a growing pause.

        Then schedule the newer bytes of `file`, if it has no Change now.
        """
        pause = max(later - time.monotonic(), 0.0)
        if error is not None:
            most = self.limits.max_cleanup_delay if change.is_settled else self.limits.max_delay
            first = self.limits.first_delay
            pause = deadline.retry_delay(change.attempts, error, first_delay=first, max_delay=most)
        with self._lock:
            change.deadline = None
            if error is not None or not later:
                # A run that found that it must wait says nothing about the failure before it.
                change.error = error
                change.attempts = change.attempts + 1 if error is not None else 0
            if change.stage is not Stage.DONE:
                self._push(change, time.monotonic() + pause)
            if file is not None and file.change is None:
                self.schedule(file)
            self._lock.notify_all()

    def run_until_finished(self, change: Change) -> None:
        """Run a Change until only cleanup is left. Raises the server's refusal, UnavailableError at this call's deadline."""
        self._run_until(change, lambda change: change.places_nothing_more)

    def _run_until(self, change: Change, is_over: Callable[[Change], bool]) -> None:
        """Run a Change in this thread, after its predecessors, until `is_over`.

        Raises the error that ended it, UnavailableError.
        """
        with (
            contextlib.nullcontext()
            if deadline.current_deadline()
            else deadline.limit_time(self._context.timeout)
        ):
            if not is_over(change):
                self._context.client.probe_and_require_reachable(change.target)
            attempt = 0
            while (first := self._claim_for_caller(change, is_over)) is not None:
                late: JobfsError = deadline.timeout_error(f"{change.target} is being saved")
                try:
                    self._run_claimed(first)
                    if self._state.changes.predecessor_of(change) is not first:
                        continue
                except (OutOfTimeError, HeldBackError):
                    raise  # the deadline is over, or the server is out of reach
                except JobfsError as error:
                    if first is change and not isinstance(error, UnavailableError):
                        raise
                    late = error
                deadline.sleep_before_retry(deadline.retry_delay(attempt, late), late, self._context.timeout)
                attempt += 1

    def _claim_for_caller(self, change: Change, is_over: Callable[[Change], bool]) -> Change | None:
        """Wait until a Change or its predecessor may run in this thread, claim that one, and return it; None once `is_over`."""
        until = deadline.current_deadline()
        assert until is not None
        with self._lock:
            while not is_over(change):
                first = self._state.changes.predecessor_of(change) or change
                runs, held = first.deadline, self._reservations.find_blocking(first.target) is not None
                if not (runs or held or (_adds_hidden_items(first) and not self._may_add_hidden_items())):
                    self._claim(first, until)
                    return first
                # The run in progress has the priority of the call that waits for it, and its progress extends this call's
                # deadline.
                with runs.attach_waiter(until) if runs else contextlib.nullcontext():
                    deadline.wait_for_notification(self._lock, f"{change.target} is being saved")
        return None

    def drain(self, timeout: float, under: str) -> bool:
        """Make the Changes at and below `under` due now; return whether all is sent or refused within `timeout` seconds."""
        now = time.monotonic()
        with self._lock:
            for change in self._state.changes.values():
                is_tried = change.is_settled or change.attempts or change.is_running or 0 < change.due <= now
                if not is_tried and names.is_at_or_below(change.target, under):
                    self._push(change, now)
        return self._wait_for_zero(lambda: self._state.has_anything_to_send(under), timeout) == 0

    def wait_and_count_uncleaned(self, timeout: float, *, includes_waiting: bool) -> int:
        """Wait for cleanup, at most `timeout` seconds; return how many Changes still need it.

        `includes_waiting`: count also Changes that can't be cleaned up yet, because each of their asides still has to wait
        (R7).
        """

        def count() -> int:
            now = time.monotonic()
            return sum(
                change.places_nothing_more
                and (
                    includes_waiting or not change.asides or any(a.unsure_until <= now for a in change.asides)
                )
                for change in self._state.changes.values()
            )

        return self._wait_for_zero(count, timeout)

    def _wait_for_zero(self, count: Callable[[], int], timeout: float) -> int:
        """Wait until `count` returns 0, at most `timeout` seconds; return the last count."""
        end = time.monotonic() + timeout
        with self._lock:
            self._lock.notify_all()
            while (number := count()) and (remaining := end - time.monotonic()) > 0:
                self._lock.wait(min(remaining, 0.2))
        return number

    def wait_idle(self, *paths: str) -> None:
        """Run Changes until none holds these names or names below them (`Changes.holding_names`). Raises ApiError, FsError."""
        while found := self._state.changes.holding_names(*paths):
            for change in found:
                self._run_until(change, lambda change: not change.holds_names)

    def wait_in_flight(self, verb: Verb, *paths: str) -> None:
        """Run Changes until none of this verb is in flight at these very names (`Changes.in_flight_at`).

        Raises ApiError, FsError.
        """
        while found := self._state.changes.in_flight_at(verb, *paths):
            for change in found:
                self.run_until_finished(change)


def _adds_hidden_items(change: Change) -> bool:
    """Return whether a Change may start only if there is room for its hidden items; a removal has none."""
    return not change.started and change.verb is not Verb.REMOVE


def _has_hidden_items(change: Change) -> bool:
    """Return whether a Change may have hidden items on the server that count against the limit."""
    # Removed directories do not count, nor do items that the server does not delete: they could block all saves for ever.
    return change.verb is not Verb.REMOVE and not (change.direct or change.cleanup_failed)

"""Inotify events and `jobfs watch`: how programs on this machine learn what the job does (vfs/semantics.md 7).

One thread looks for programs that watch. While there are any, it also reads the listing of the workspace, and reports what has
changed. Otherwise it makes no requests.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from jobfs import names, watchers
from jobfs.api.deadline import limit_time
from jobfs.background import Background
from jobfs.document import Status, WatchEvent, events_between, make_event
from jobfs.errors import JobfsError
from jobfs.fuse.events import EventInjector, HelperCall
from jobfs.namespace.differences import Difference, DifferenceKind
from jobfs.nodes import Attr, Item

if TYPE_CHECKING:
    from jobfs.vfs import Vfs

#: The seconds between checks while a program watches, and while none does. Checks may take the share `_SHARE` of a core's time:
#: the pause grows for that, up to `_RARELY` seconds.
_OFTEN, _SELDOM, _SHARE, _RARELY = 1.0, 2.0, 0.05, 5.0
#: How long a program has to begin to watch a new directory before the events inside it are made, in seconds.
_SETTLE = 0.3
#: How long a `jobfs watch` may take to notice that its caller is gone, in seconds.
_WAIT = 0.5

#: The mode bits of an executable file.
_EXECUTABLE = 0o111


class Limits(NamedTuple):
    """How many changes a program hears of (vfs/semantics.md 7.4 and 7.9).

    `rate`: changes per second that are made into events. `events`: changes of one check that get their own events. `waiting`:
    changes that are queued for one `jobfs watch`.
    """

    rate: float = 1000.0
    events: int = 10_000
    waiting: int = 20_000


_USUAL = Limits()


class ChangeNotifier:
    """The thread that finds watching programs, and reports to them what the job does.

    `events`: whether programs that watch by inotify get events. `timeout`: how long a listing may be without progress, in s.
    `find_watched`: returns the inodes that each program watches on a device. `limits`: of what a program hears. `seldom`: the
    seconds between checks while no program watches, and after an error.
    """

    def __init__(
        self,
        vfs: Vfs,
        injector: EventInjector,
        *,
        events: bool,
        timeout: float,
        find_watched: Callable[[int], dict[int, set[int]]] = watchers.find_watched_inodes,
        limits: Limits = _USUAL,
        seldom: float = _SELDOM,
    ) -> None:
        self._vfs, self._injector, self._events, self._timeout = vfs, injector, events, timeout
        self._find_watched, self._limits, self._seldom = find_watched, limits, seldom
        _, self._device = injector.mount
        self._listeners: list[queue.Queue[Difference]] = []
        self._watched: dict[int, set[int]] = {}
        self._thread = Background("jobfs-live", self.notify_once, first=seldom, retry=seldom)
        self._stopping = self._thread.stopping

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and make no more events. Does not wait for a listing that is in progress."""
        self._thread.stop()
        self._injector.close()

    def follow(self, top: str, report: Callable[[WatchEvent], None], is_over: Callable[[], bool]) -> None:
        """Report the changes at or below `top`, and those of the job's status, until `is_over`.

        If `report` is slow, some changes are left out, and an event `missed` says so.
        """
        with self._subscribe() as waiting:
            for each in self._watch_events(waiting, is_over):
                if _is_event_below(each, top):
                    report(each)

    def _watch_events(
        self, waiting: queue.Queue[Difference], is_over: Callable[[], bool]
    ) -> Iterator[WatchEvent]:
        """Yield the events of the `waiting` differences, and of changes in the status, as they come, until `is_over`."""
        status: Status | None = None
        due = 0.0
        while not is_over():
            found: list[WatchEvent] = []
            if status is None or time.monotonic() >= due:
                with limit_time(self._timeout):
                    before, status = status, self._vfs.status()
                due = time.monotonic() + max(_OFTEN, status["effective_ttl"])
                found += events_between(before, status)
            if waiting.full():
                found.append(make_event(status, "missed", reason="more has changed than is reported"))
            with contextlib.suppress(queue.Empty):
                found.append(_watch_event(status, waiting.get(timeout=0 if found else _WAIT)))
            yield from found

    @contextlib.contextmanager
    def _subscribe(self) -> Iterator[queue.Queue[Difference]]:
        """Yield a queue that gets each difference from now on while the block runs; if it is full, differences are dropped.

        If no program has watched until now, read the listing first, so that the differences are those since this call.
        """
        waiting: queue.Queue[Difference] = queue.Queue(self._limits.waiting)
        if not self._count_programs():
            self._refresh_listing()
            self._vfs.take_differences()
        self._listeners.append(waiting)
        self._count_programs()
        try:
            yield waiting
        finally:
            self._listeners.remove(waiting)
            self._count_programs()

    def _count_programs(self) -> int:
        """Return how many programs watch, by inotify or by `jobfs watch`, and note the number for the status."""
        programs = self._vfs.watching["programs"] = len(self._watched) + len(self._listeners)
        return programs

    def _refresh_listing(self) -> None:
        with contextlib.suppress(JobfsError), limit_time(self._timeout):
            self._vfs.refresh_if_stale()

    def notify_once(self) -> float:
        """Refresh the listing if a program watches, find the watching programs and report the differences to them.

        Returns the seconds until the next check.
        """
        earlier = self._count_programs()
        if earlier:
            self._refresh_listing()
        began = time.thread_time()
        self._watched = self._find_watched(self._device) if self._events else {}
        cost = time.thread_time() - began
        differences = self._vfs.take_differences()
        programs = self._count_programs()
        self._queue_for_listeners(differences)
        if self._watched and differences:
            self._make_events(differences)
        if programs > earlier:
            return 0.0  # a program that has just begun to watch needs a listing
        return min(max(_OFTEN if programs else self._seldom, cost / _SHARE), _RARELY)

    def _queue_for_listeners(self, differences: Sequence[Difference]) -> None:
        """Queue the differences for each `jobfs watch`, while its queue has room."""
        # A changed directory is another one at the same path, which only the kernel must know.
        reported = [
            each for each in differences if each.kind is not DifferenceKind.CHANGED or not each.item.is_dir
        ]
        for waiting in [*self._listeners]:
            with contextlib.suppress(queue.Full):
                for each in reported:
                    waiting.put_nowait(each)
                    self._vfs.watching["told"] += 1

    # Events

    def _make_events(self, differences: Sequence[Difference]) -> None:
        """Make the events of those differences that a program watches for.

        Where the helper hangs, and for differences beyond `Limits.events`, one event of the directory stands for the rest.
        """
        # The injector answers with these attributes: a program may have the earlier version open or mapped, with its size.
        previous = {
            path: self._vfs.attr_of_item(each.previous or each.item, path)
            for each in differences
            if (path := each.old or each.path * (each.kind is not DifferenceKind.CREATED))
        }
        self._injector.previous_attrs = previous
        batch, made_directory = _EventBatch(self._vfs, previous, self._limits), False
        for _, level in groupby(differences, lambda each: each.path.count("/")):
            if made_directory:
                # Give programs time to watch the directories that were just made.
                self._stopping.wait(_SETTLE)
                self._watched = self._find_watched(self._device)
            made_directory = self._make_events_and_see_if_directory_made(level, batch)
            if self._stopping.is_set():
                return
        for directory in batch.summarized_directories:
            self._injector.inject(HelperCall("attributes", directory))

    def _make_events_and_see_if_directory_made(
        self, differences: Iterable[Difference], batch: _EventBatch
    ) -> bool:
        """Make the events of differences at one depth; return whether the job has made a directory there."""
        made_directory = False
        for each in differences:
            if not self._is_watched(batch.inodes_of(each)) or not batch.count_if_allowed(each):
                continue
            made_directory |= each.item.is_dir and each.kind is DifferenceKind.CREATED
            if not self._make_events_of(each):
                batch.summarized_directories.add(names.parent(each.path))
            if self._stopping.wait(batch.seconds_until_due()):
                break
        return made_directory

    def _is_watched(self, inodes: set[int]) -> bool:
        return any(not inodes.isdisjoint(watched) for watched in self._watched.values())

    def _make_events_of(self, difference: Difference) -> bool:
        """Make the events of a difference; return False if the helper hangs."""
        if difference.kind is DifferenceKind.DELETED and self._is_kind_shown_at(
            difference.path, difference.item
        ):
            return True  # there is another one by now
        if difference.item.size is None and not difference.item.is_dir:
            with contextlib.suppress(JobfsError), limit_time(self._timeout):
                self._vfs.getattr(difference.path)
        code = self._inject_all(self._calls_for(difference))
        if code == errno.EBUSY and difference.old:
            # A program has made another file at the old name.
            code = self._inject_all(self._calls_for_replacement(difference))
        if code not in (0, errno.ETIMEDOUT):
            changed = (
                difference.path
                if difference.kind is DifferenceKind.CHANGED
                else names.parent(difference.path)
            )
            code = self._injector.inject(HelperCall("attributes", changed))
        self._vfs.watching["told"] += 1
        return code != errno.ETIMEDOUT

    def _inject_all(self, calls: Sequence[HelperCall]) -> int:
        """Make the helper do calls until one fails; return the errno of that, 0 if none failed."""
        return next((code for call in calls if (code := self._injector.inject(call))), 0)

    def _is_kind_shown_at(self, path: str, item: Item) -> bool:
        """Return whether a path shows something of the item's kind."""
        with contextlib.suppress(JobfsError):
            return stat.S_ISDIR(self._vfs.last_attr(path).mode) is item.is_dir
        return False

    def _calls_for(self, difference: Difference) -> list[HelperCall]:
        """Return the calls that produce the events of a difference."""
        path, item = difference.path, difference.item
        if difference.kind is DifferenceKind.CHANGED:
            # Another directory is at this path now. The kernel has the inode of the first until it gets the new attributes.
            return (
                [HelperCall("attributes", path)]
                if item.is_dir
                else [HelperCall("modify", path), *self._closing_calls(difference)]
            )
        is_open = any(map(self._vfs.is_open, filter(None, (path, difference.old))))
        if difference.old and not is_open:
            return [HelperCall("rename", difference.old, path)]
        if difference.kind is DifferenceKind.DELETED and item.is_dir and is_open:
            # No rmdir: libfuse would wait for reads below the directory, while the kernel holds the lock of the parent.
            return [HelperCall("attributes", names.parent(path))]
        return self._calls_for_replacement(difference)

    def _calls_for_replacement(self, difference: Difference) -> list[HelperCall]:
        """Return the calls that delete and create; nothing is deleted at an old name that a program has used again."""
        path, item = difference.path, difference.item
        deletion = [HelperCall("rmdir" if item.is_dir else "unlink", difference.old or path)]
        if difference.kind is DifferenceKind.DELETED:
            return deletion
        creation = (
            [HelperCall("mkdir", path)]
            if item.is_dir
            else [HelperCall("create", path), *self._closing_calls(difference)]
        )
        is_moved = difference.old and not self._is_kind_shown_at(difference.old, item)
        return deletion + creation if is_moved else creation

    def _closing_calls(self, difference: Difference) -> list[HelperCall]:
        """Return the call that closes a file; none for an executable, which can't be run while it is open for writing."""
        mode = self._vfs.attr_of_item(difference.item).mode
        return [] if mode & _EXECUTABLE else [HelperCall("close", difference.path)]


class _EventBatch:
    """The state of making the events for the differences of one check.

    `summarized_directories`: the directories that get a single event for their remaining differences.
    """

    def __init__(self, vfs: Vfs, previous_attrs: Mapping[str, Attr], limits: Limits) -> None:
        """`previous_attrs`: by path, the attributes that the kernel may still have."""
        self.summarized_directories: set[str] = set()
        self._vfs, self._previous_attrs, self._limits = vfs, previous_attrs, limits
        self._began, self._count = time.monotonic(), 0
        self._directories: dict[str, set[int]] = {}

    def inodes_of(self, difference: Difference) -> set[int]:
        """Return the inode numbers by which the kernel may know the changed item, and its directory before and after."""
        inodes = {self._vfs.attr_of_item(difference.item).ino}
        for path in filter(None, (difference.path, difference.old)):
            inodes |= self._inodes_at(path)
            directory = names.parent(path)
            # Looked up once per directory, because most differences are in few directories.
            if directory not in self._directories:
                self._directories[directory] = self._inodes_at(directory)
            inodes |= self._directories[directory]
        return inodes

    def _inodes_at(self, path: str) -> set[int]:
        """Return the inode numbers that `path` shows now, and showed before."""
        inodes = {self._previous_attrs[path].ino} if path in self._previous_attrs else set[int]()
        with contextlib.suppress(JobfsError):
            inodes.add(self._vfs.last_attr(path).ino)
        return inodes

    def count_if_allowed(self, difference: Difference) -> bool:
        """Count a difference, and return whether it gets its own events; if not, its directory is in `summarized_directories`."""
        directory = names.parent(difference.path)
        if self._count == self._limits.events:
            self.summarized_directories.add(directory)
        if directory in self.summarized_directories:
            return False
        self._count += 1
        return True

    def seconds_until_due(self) -> float:
        """Return the seconds until the next difference is due at `Limits.rate`."""
        return max(0.0, self._began + self._count / self._limits.rate - time.monotonic())


def _is_event_below(event: WatchEvent, top: str) -> bool:
    """Return whether an event is at or below `top`, or has no path, as those of the job."""
    paths = [path for path in (event["path"], event["old"]) if path is not None]
    return not paths or any(names.is_at_or_below(path, top) for path in paths)


def _watch_event(status: Status, difference: Difference) -> WatchEvent:
    """Return the event of a difference for `jobfs watch`."""
    item, deleted = difference.item, difference.kind is DifferenceKind.DELETED
    size = None if deleted or item.is_dir else item.size
    return make_event(
        status, difference.kind, difference.path, old=difference.old or None, directory=item.is_dir, size=size
    )

"""Live: who watches a directory of the mount, or asks `jobfs watch`, is told what the job does (vfs/semantics.md 7).

One thread looks: who watches, and, while somebody does, what the workspace's listing shows. While nobody does, it asks the server
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

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

#: Seconds between looks while somebody watches, and while nobody does; they take at most this part of the time, but for one each
#: so many seconds.
_OFTEN, _SELDOM, _SHARE, _RARELY = 1.0, 2.0, 0.05, 5.0
#: Changes a second that are told; most that are told singly of one look.
_RATE, _MOST = 1000, 10_000
#: Seconds that a watcher has to watch a new directory, before it is told what is in it.
_SETTLE = 0.3
#: News that wait for `jobfs watch` at most. Seconds in which it is seen that nobody listens any more.
_WAITING, _WAIT = 20_000, 0.5

#: Bits of a mode that make a file a program.
_EXECUTABLE = 0o111


class ChangeNotifier:
    """Tells programs on this machine what the job does.

    `events`: programs that watch by inotify are looked for, and told by events. `timeout`: seconds that a listing has without
    progress.
    """

    def __init__(self, vfs: Vfs, injector: EventInjector, *, events: bool, timeout: float) -> None:
        self._vfs, self._injector, self._events, self._timeout = vfs, injector, events, timeout
        _, self._device = injector.mount
        self._listeners: list[queue.Queue[Difference]] = []
        self._watched: dict[int, set[int]] = {}
        self._thread = Background("jobfs-live", self._check_once, first=_SELDOM, retry=_SELDOM)
        self._stopping = self._thread.stopping

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and tell nobody anything. Does not wait for a listing that is under way."""
        self._thread.stop()
        self._injector.close()

    def follow(self, top: str, report: Callable[[WatchEvent], None], is_over: Callable[[], bool]) -> None:
        """Tell what changes at `top` or below it, and with the job, until it is `is_over`; not all of it if `report` takes
        long.
        """
        with self._subscribe() as waiting:
            for each in self._watch_events(waiting, is_over):
                if _concerns(each, top):
                    report(each)

    def _watch_events(
        self, waiting: queue.Queue[Difference], is_over: Callable[[], bool]
    ) -> Iterator[WatchEvent]:
        """Yield what the status and the `waiting` news show, as it comes, until it is `is_over`."""
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
                found.append(make_event(status, "missed", reason="more has changed than is told"))
            with contextlib.suppress(queue.Empty):
                found.append(_watch_event(status, waiting.get(timeout=0 if found else _WAIT)))
            yield from found

    @contextlib.contextmanager
    def _subscribe(self) -> Iterator[queue.Queue[Difference]]:
        """News as they are seen, in a queue; what has no room in it is left out.

        If nobody has watched until now, they begin with what the listing shows now; that is waited for.
        """
        waiting: queue.Queue[Difference] = queue.Queue(_WAITING)
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
        """Count the programs that watch something here by inotify, or by `jobfs watch`; for the status too."""
        programs = self._vfs.watching["programs"] = len(self._watched) + len(self._listeners)
        return programs

    def _refresh_listing(self) -> None:
        with contextlib.suppress(JobfsError), limit_time(self._timeout):
            self._vfs.refresh_if_stale()

    def _check_once(self) -> float:
        """One look; returns the seconds until the next."""
        before = self._count_programs()
        if before:
            self._refresh_listing()
        began = time.thread_time()
        self._watched = watchers.find_watched_inodes(self._device) if self._events else {}
        cost = time.thread_time() - began
        news = self._vfs.take_differences()
        programs = self._count_programs()
        self._inform_listeners(news)
        if self._watched and news:
            self._make_events(news)
        if programs > before:
            return 0.0  # who has just begun to watch waits for a listing
        return min(max(_OFTEN if programs else _SELDOM, cost / _SHARE), _RARELY)

    def _inform_listeners(self, differences: Sequence[Difference]) -> None:
        """Queue the changes for each `jobfs watch`, as far as its queue has room."""
        # That another directory is at a path is an event for the kernel only.
        told = [
            each for each in differences if each.kind is not DifferenceKind.CHANGED or not each.item.is_dir
        ]
        for waiting in [*self._listeners]:
            with contextlib.suppress(queue.Full):
                for each in told:
                    waiting.put_nowait(each)
                    self._vfs.watching["told"] += 1

    # Events

    def _make_events(self, differences: Sequence[Difference]) -> None:
        """Make the events of these changes that somebody watches for.

        A directory in which a helper hangs, or with changes beyond `_MOST`, gets one event for the rest of them.
        """
        # Not with the size of another version than the one that a program has open, and perhaps mapped.
        before = {
            path: self._vfs.attr_of_item(each.previous or each.item, path)
            for each in differences
            if (path := each.old or each.path * (each.kind is not DifferenceKind.CREATED))
        }
        self._injector.before = before
        batch, made = _Batch(self._vfs, before), False
        for _, level in groupby(differences, lambda each: each.path.count("/")):
            if made:
                # Programs that watch the directories that were just made get the time to begin.
                self._stopping.wait(_SETTLE)
                self._watched = watchers.find_watched_inodes(self._device)
            made = self._make_level(level, batch)
            if self._stopping.is_set():
                return
        for directory in batch.rest:
            self._injector.inject(HelperCall("attributes", directory))

    def _make_level(self, differences: Iterable[Difference], batch: _Batch) -> bool:
        """Make the events of changes in directories of one depth; return whether a directory was created."""
        made = False
        for each in differences:
            if not self._is_watched(batch.inodes_of(each)) or not batch.count_if_allowed(each):
                continue
            made |= each.item.is_dir and each.kind is DifferenceKind.CREATED
            if not self._make_events_of(each):
                batch.rest.add(names.parent(each.path))
            if self._stopping.wait(batch.delay()):
                break
        return made

    def _is_watched(self, inodes: set[int]) -> bool:
        return any(not inodes.isdisjoint(watched) for watched in self._watched.values())

    def _make_events_of(self, difference: Difference) -> bool:
        """Make the events of a change; False if the helper hangs."""
        if difference.kind is DifferenceKind.DELETED and self._is_there(difference.path, difference.item):
            return True  # it is back
        if difference.item.size is None and not difference.item.is_dir:
            with contextlib.suppress(JobfsError), limit_time(self._timeout):
                self._vfs.getattr(difference.path)
        code = self._inject_all(self._calls_for(difference))
        if code == errno.EBUSY and difference.old:
            # A program has made a file at the old name.
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
        """Have calls made until one fails; its errno, 0 if all were made."""
        return next((code for call in calls if (code := self._injector.inject(call))), 0)

    def _is_there(self, path: str, item: Item) -> bool:
        """True if a path shows something of the item's kind."""
        with contextlib.suppress(JobfsError):
            return stat.S_ISDIR(self._vfs.last_attr(path).mode) is item.is_dir
        return False

    def _calls_for(self, difference: Difference) -> list[HelperCall]:
        """The calls that have the events of a change."""
        path, item = difference.path, difference.item
        if difference.kind is DifferenceKind.CHANGED:
            # Of another directory at a path the kernel has the number of the first until its attributes are told.
            return (
                [HelperCall("attributes", path)]
                if item.is_dir
                else [HelperCall("modify", path), *self._closing_calls(difference)]
            )
        is_open = any(map(self._vfs.is_open, filter(None, (path, difference.old))))
        if difference.old and not is_open:
            return [HelperCall("rename", difference.old, path)]
        if difference.kind is DifferenceKind.DELETED and item.is_dir and is_open:
            # libfuse waits for reads below before it takes a directory away, and the kernel holds the one above meanwhile.
            return [HelperCall("attributes", names.parent(path))]
        return self._calls_for_replacement(difference)

    def _calls_for_replacement(self, difference: Difference) -> list[HelperCall]:
        """The calls that delete and create; what is at the old name again is not deleted."""
        path, item = difference.path, difference.item
        gone = [HelperCall("rmdir" if item.is_dir else "unlink", difference.old or path)]
        if difference.kind is DifferenceKind.DELETED:
            return gone
        come = (
            [HelperCall("mkdir", path)]
            if item.is_dir
            else [HelperCall("create", path), *self._closing_calls(difference)]
        )
        return gone + come if difference.old and not self._is_there(difference.old, item) else come

    def _closing_calls(self, difference: Difference) -> list[HelperCall]:
        """The call that closes a file; none for a program, which could not be run while it is open to be written."""
        mode = self._vfs.attr_of_item(difference.item).mode
        return [] if mode & _EXECUTABLE else [HelperCall("close", difference.path)]


class _Batch:
    """The changes that one look has found, while their events are made.

    `rest`: directories that get one event for those of their changes that are not made singly.
    """

    def __init__(self, vfs: Vfs, before: Mapping[str, Attr]) -> None:
        """`before`: the attributes that the kernel may still have of what has changed."""
        self.rest: set[str] = set()
        self._vfs, self._before = vfs, before
        self._began, self._count = time.monotonic(), 0
        self._directories: dict[str, set[int]] = {}

    def inodes_of(self, difference: Difference) -> set[int]:
        """The numbers by which the kernel may know what has changed, and the directories that have or had it."""
        inodes = {self._vfs.attr_of_item(difference.item).ino}
        for path in filter(None, (difference.path, difference.old)):
            inodes |= self._inodes_at(path)
            directory = names.parent(path)
            # Once a directory: most changes of a look are in few.
            if directory not in self._directories:
                self._directories[directory] = self._inodes_at(directory)
            inodes |= self._directories[directory]
        return inodes

    def _inodes_at(self, path: str) -> set[int]:
        """The numbers of what is at `path`, and of what was there."""
        inodes = {self._before[path].ino} if path in self._before else set[int]()
        with contextlib.suppress(JobfsError):
            inodes.add(self._vfs.last_attr(path).ino)
        return inodes

    def count_if_allowed(self, difference: Difference) -> bool:
        """Count a change whose events are made singly; False, and its directory is in `rest`, if there have been too many."""
        directory = names.parent(difference.path)
        if self._count == _MOST:
            self.rest.add(directory)
        if directory in self.rest:
            return False
        self._count += 1
        return True

    def delay(self) -> float:
        """Seconds until the next change is due at `_RATE`."""
        return max(0.0, self._began + self._count / _RATE - time.monotonic())


def _concerns(each: WatchEvent, top: str) -> bool:
    """True for a change at `top` or below it, or one of the job, which has no path."""
    paths = [path for path in (each["path"], each["old"]) if path is not None]
    return not paths or any(names.is_at_or_below(path, top) for path in paths)


def _watch_event(status: Status, difference: Difference) -> WatchEvent:
    """A change of the job as `jobfs watch` tells of it."""
    item, gone = difference.item, difference.kind is DifferenceKind.DELETED
    size = None if gone or item.is_dir else item.size
    return make_event(
        status, difference.kind, difference.path, old=difference.old or None, directory=item.is_dir, size=size
    )

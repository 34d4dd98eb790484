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
from jobfs.api.deadline import within
from jobfs.background import Background
from jobfs.document import Change, Status, change, changes
from jobfs.errors import JobfsError
from jobfs.fuse.telling import Call, Teller
from jobfs.namespace.news import Happened, News
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


class Live:
    """Tells programs on this machine what the job does.

    `events`: programs that watch by inotify are looked for, and told by events. `timeout`: seconds that a listing has without
    progress.
    """

    def __init__(self, vfs: Vfs, teller: Teller, *, events: bool, timeout: float) -> None:
        self._vfs, self._teller, self._events, self._timeout = vfs, teller, events, timeout
        _, self._device = teller.place
        self._listeners: list[queue.Queue[News]] = []
        self._watched: dict[int, set[int]] = {}
        self._thread = Background("jobfs-live", self._look, first=_SELDOM, retry=_SELDOM)
        self._stopping = self._thread.stopping

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and tell nobody anything. Does not wait for a listing that is under way."""
        self._thread.stop()
        self._teller.close()

    def follow(self, top: str, tell: Callable[[Change], None], over: Callable[[], bool]) -> None:
        """Tell what changes at `top` or below it, and with the job, until it is `over`; not all of it if `tell` takes long."""
        with self._listening() as waiting:
            for each in self._changes(waiting, over):
                if _concerns(each, top):
                    tell(each)

    def _changes(self, waiting: queue.Queue[News], over: Callable[[], bool]) -> Iterator[Change]:
        """Yield what the status and the `waiting` news show, as it comes, until it is `over`."""
        status: Status | None = None
        due = 0.0
        while not over():
            found: list[Change] = []
            if status is None or time.monotonic() >= due:
                with within(self._timeout):
                    before, status = status, self._vfs.status()
                due = time.monotonic() + max(_OFTEN, status["effective_ttl"])
                found += changes(before, status)
            if waiting.full():
                found.append(change(status, "missed", reason="more has changed than is told"))
            with contextlib.suppress(queue.Empty):
                found.append(_described(status, waiting.get(timeout=0 if found else _WAIT)))
            yield from found

    @contextlib.contextmanager
    def _listening(self) -> Iterator[queue.Queue[News]]:
        """News as they are seen, in a queue; what has no room in it is left out.

        If nobody has watched until now, they begin with what the listing shows now; that is waited for.
        """
        waiting: queue.Queue[News] = queue.Queue(_WAITING)
        if not self._programs():
            self._read()
            self._vfs.news()
        self._listeners.append(waiting)
        self._programs()
        try:
            yield waiting
        finally:
            self._listeners.remove(waiting)
            self._programs()

    def _programs(self) -> int:
        """Count the programs that watch something here by inotify, or by `jobfs watch`; for the status too."""
        programs = self._vfs.watching["programs"] = len(self._watched) + len(self._listeners)
        return programs

    def _read(self) -> None:
        with contextlib.suppress(JobfsError), within(self._timeout):
            self._vfs.look()

    def _look(self) -> float:
        """One look; returns the seconds until the next."""
        before = self._programs()
        if before:
            self._read()
        began = time.thread_time()
        self._watched = watchers.watched(self._device) if self._events else {}
        cost = time.thread_time() - began
        news = self._vfs.news()
        programs = self._programs()
        self._inform_listeners(news)
        if self._watched and news:
            self._make_events(news)
        if programs > before:
            return 0.0  # who has just begun to watch waits for a listing
        return min(max(_OFTEN if programs else _SELDOM, cost / _SHARE), _RARELY)

    def _inform_listeners(self, news: Sequence[News]) -> None:
        """Queue the changes for each `jobfs watch`, as far as its queue has room."""
        # That another directory is at a path is an event for the kernel only.
        told = [each for each in news if each.happened is not Happened.CHANGED or not each.item.is_dir]
        for waiting in [*self._listeners]:
            with contextlib.suppress(queue.Full):
                for each in told:
                    waiting.put_nowait(each)
                    self._vfs.watching["told"] += 1

    # Events

    def _make_events(self, news: Sequence[News]) -> None:
        """Make the events of these changes that somebody watches for.

        A directory in which a helper hangs, or with changes beyond `_MOST`, gets one event for the rest of them.
        """
        # Not with the size of another version than the one that a program has open, and perhaps mapped.
        before = {
            path: self._vfs.attr_of(each.was or each.item, path)
            for each in news
            if (path := each.old or each.path * (each.happened is not Happened.CREATED))
        }
        self._teller.before = before
        batch, made = _Batch(self._vfs, before), False
        for _, level in groupby(news, lambda each: each.path.count("/")):
            if made:
                # Programs that watch the directories that were just made get the time to begin.
                self._stopping.wait(_SETTLE)
                self._watched = watchers.watched(self._device)
            made = self._make_level(level, batch)
            if self._stopping.is_set():
                return
        for directory in batch.rest:
            self._teller.tell(Call("attributes", directory))

    def _make_level(self, news: Iterable[News], batch: _Batch) -> bool:
        """Make the events of changes in directories of one depth; return whether a directory was created."""
        made = False
        for each in news:
            if not self._is_watched(batch.inodes(each)) or not batch.admit(each):
                continue
            made |= each.item.is_dir and each.happened is Happened.CREATED
            if not self._make(each):
                batch.rest.add(names.parent(each.path))
            if self._stopping.wait(batch.pause()):
                break
        return made

    def _is_watched(self, inodes: set[int]) -> bool:
        return any(not inodes.isdisjoint(watched) for watched in self._watched.values())

    def _make(self, news: News) -> bool:
        """Make the events of a change; False if the helper hangs."""
        if news.happened is Happened.DELETED and self._is_there(news.path, news.item):
            return True  # it is back
        if news.item.size is None and not news.item.is_dir:
            with contextlib.suppress(JobfsError), within(self._timeout):
                self._vfs.getattr(news.path)
        code = self._tell_all(self._calls(news))
        if code == errno.EBUSY and news.old:
            code = self._tell_all(self._calls_apart(news))  # a program has made a file at the old name
        if code not in (0, errno.ETIMEDOUT):
            changed = news.path if news.happened is Happened.CHANGED else names.parent(news.path)
            code = self._teller.tell(Call("attributes", changed))
        self._vfs.watching["told"] += 1
        return code != errno.ETIMEDOUT

    def _tell_all(self, calls: Sequence[Call]) -> int:
        """Have calls made until one fails; its errno, 0 if all were made."""
        return next((code for call in calls if (code := self._teller.tell(call))), 0)

    def _is_there(self, path: str, item: Item) -> bool:
        """True if a path shows something of the item's kind."""
        with contextlib.suppress(JobfsError):
            return stat.S_ISDIR(self._vfs.known(path).mode) is item.is_dir
        return False

    def _calls(self, news: News) -> list[Call]:
        """The calls that have the events of a change."""
        path, item = news.path, news.item
        if news.happened is Happened.CHANGED:
            # Of another directory at a path the kernel has the number of the first until its attributes are told.
            return [Call("attributes", path)] if item.is_dir else [Call("modify", path), *self._closing(news)]
        is_open = any(map(self._vfs.is_open, filter(None, (path, news.old))))
        if news.old and not is_open:
            return [Call("rename", news.old, path)]
        if news.happened is Happened.DELETED and item.is_dir and is_open:
            # libfuse waits for reads below before it takes a directory away, and the kernel holds the one above meanwhile.
            return [Call("attributes", names.parent(path))]
        return self._calls_apart(news)

    def _calls_apart(self, news: News) -> list[Call]:
        """The calls that delete and create; what is at the old name again is not deleted."""
        path, item = news.path, news.item
        gone = [Call("rmdir" if item.is_dir else "unlink", news.old or path)]
        if news.happened is Happened.DELETED:
            return gone
        come = [Call("mkdir", path)] if item.is_dir else [Call("create", path), *self._closing(news)]
        return gone + come if news.old and not self._is_there(news.old, item) else come

    def _closing(self, news: News) -> list[Call]:
        """The call that closes a file; none for a program, which could not be run while it is open to be written."""
        mode = self._vfs.attr_of(news.item).mode
        return [] if mode & _EXECUTABLE else [Call("close", news.path)]


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

    def inodes(self, news: News) -> set[int]:
        """The numbers by which the kernel may know what has changed, and the directories that have or had it."""
        inodes = {self._vfs.attr_of(news.item).ino}
        for path in filter(None, (news.path, news.old)):
            inodes |= self._at(path)
            directory = names.parent(path)
            # Once a directory: most changes of a look are in few.
            if directory not in self._directories:
                self._directories[directory] = self._at(directory)
            inodes |= self._directories[directory]
        return inodes

    def _at(self, path: str) -> set[int]:
        """The numbers of what is at `path`, and of what was there."""
        inodes = {self._before[path].ino} if path in self._before else set[int]()
        with contextlib.suppress(JobfsError):
            inodes.add(self._vfs.known(path).ino)
        return inodes

    def admit(self, news: News) -> bool:
        """Count a change whose events are made singly; False, and its directory is in `rest`, if there have been too many."""
        directory = names.parent(news.path)
        if self._count == _MOST:
            self.rest.add(directory)
        if directory in self.rest:
            return False
        self._count += 1
        return True

    def pause(self) -> float:
        """Seconds until the next change is due at `_RATE`."""
        return max(0.0, self._began + self._count / _RATE - time.monotonic())


def _concerns(each: Change, top: str) -> bool:
    """True for a change at `top` or below it, or one of the job, which has no path."""
    paths = [path for path in (each["path"], each["old"]) if path is not None]
    return not paths or any(names.within(path, top) for path in paths)


def _described(status: Status, news: News) -> Change:
    """A change of the job as `jobfs watch` tells of it."""
    item, gone = news.item, news.happened is Happened.DELETED
    size = None if gone or item.is_dir else item.size
    return change(status, news.happened, news.path, old=news.old or None, directory=item.is_dir, size=size)

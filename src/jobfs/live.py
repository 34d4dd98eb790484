"""Live: who watches a directory of the mount, or asks `jobfs watch`, is told what the job does (vfs/semantics.md 7).

One thread looks: who watches, and, while somebody does, what the workspace's listing shows. While nobody does, it asks the server
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from jobfs import names, watchers
from jobfs.api.deadline import within
from jobfs.errors import JobfsError
from jobfs.fuse.telling import Call, Teller
from jobfs.namespace.news import Happened, News
from jobfs.nodes import Attr

if TYPE_CHECKING:
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.live")

#: Seconds between looks while somebody watches, and while nobody does: then the looks take this part of the time at most.
_OFTEN, _SELDOM, _SHARE = 1.0, 2.0, 0.01
#: Changes a second that are told; most that are told singly of one look.
_RATE, _MOST = 1000, 10_000
#: Seconds that a watcher has to watch a new directory, before it is told what is in it.
_SETTLE = 0.3
#: News that wait for `jobfs watch` at most.
_WAITING = 20_000

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
        self._stopping = threading.Event()
        self._listeners: list[queue.Queue[News]] = []
        self._watched: dict[int, set[int]] = {}
        #: How many changes were told by events.
        self.told = 0
        self._thread = threading.Thread(target=self._run, name="jobfs-live", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and tell nobody anything. Does not wait for a listing that is under way."""
        self._stopping.set()
        self._teller.close()

    @property
    def programs(self) -> int:
        """How many programs watch something here by inotify, or by `jobfs watch`."""
        return len(self._watched) + len(self._listeners)

    @contextlib.contextmanager
    def listening(self) -> Iterator[queue.Queue[News]]:
        """News as they are seen, in a queue; what has no room in it is left out."""
        waiting: queue.Queue[News] = queue.Queue(_WAITING)
        self._listeners.append(waiting)
        try:
            yield waiting
        finally:
            self._listeners.remove(waiting)

    def _run(self) -> None:
        pause = _SELDOM
        while not self._stopping.wait(pause):
            try:
                pause = self._look()
            except Exception:
                _log.exception("watchers are not told of a change")

    def _look(self) -> float:
        """One look; returns the seconds until the next."""
        if self.programs:
            with contextlib.suppress(JobfsError), within(self._timeout):
                self._vfs.look()
        began = time.thread_time()
        self._watched = watchers.watched(self._device) if self._events else {}
        cost = time.thread_time() - began
        news = self._vfs.news()
        if self.programs and news:
            for waiting in [*self._listeners]:
                with contextlib.suppress(queue.Full):
                    for each in news:
                        waiting.put_nowait(each)
            if self._watched:
                self._tell(news)
        return _OFTEN if self.programs else max(_SELDOM, cost / _SHARE)

    # Events

    def _tell(self, news: Sequence[News]) -> None:
        """Make the events of these changes that somebody watches for."""
        gone = {each.path: self._vfs.attr_of(each.item) for each in news if each.happened is Happened.DELETED}
        began, count, level, made = time.monotonic(), 0, 0, False
        rest: set[str] = set()
        for each in news:
            if made and each.path.count("/") != level:
                # Who watches the directories that were just made is given the time to begin.
                self._stopping.wait(_SETTLE)
                self._watched, made = watchers.watched(self._device), False
            level = each.path.count("/")
            if not self._is_watched(each, gone):
                continue
            if count == _MOST:
                rest.add(names.parent(each.path))
                continue
            count += 1
            made |= each.item.is_dir and each.happened is Happened.CREATED
            if not self._make(each) or self._stopping.wait(
                max(0.0, began + count / _RATE - time.monotonic())
            ):
                return
        for directory in rest:
            self._teller.tell(Call("attributes", directory))

    def _is_watched(self, news: News, gone: Mapping[str, Attr]) -> bool:
        """True if somebody watches what has changed, or its directory."""
        inodes = {self._vfs.attr_of(news.item).ino}
        for directory in {names.parent(path) for path in (news.path, news.old) if path}:
            with contextlib.suppress(JobfsError):
                inodes.add((gone.get(directory) or self._vfs.known(directory)).ino)
        return any(not inodes.isdisjoint(watched) for watched in self._watched.values())

    def _make(self, news: News) -> bool:
        """Make the events of a change; False if the helper does not answer."""
        with contextlib.suppress(JobfsError):
            if news.happened is Happened.DELETED and self._vfs.known(news.path):
                return True  # it is back
        if news.item.size is None and not news.item.is_dir:
            with contextlib.suppress(JobfsError), within(self._timeout):
                self._vfs.getattr(news.path)
        code = 0
        for call in self._calls(news):
            code = code or self._teller.tell(call)
        if code not in (0, errno.EPIPE):
            there = news.path if news.happened is Happened.CHANGED else names.parent(news.path)
            code = self._teller.tell(Call("attributes", there))
        self.told += 1
        return code != errno.EPIPE

    def _calls(self, news: News) -> list[Call]:
        """The calls that have the events of a change."""
        path, item, attr = news.path, news.item, self._vfs.attr_of(news.item)
        # A program could not be run while it is open to be written.
        closing = [] if attr.mode & _EXECUTABLE else [Call("close", path)]
        if news.happened is Happened.CHANGED:
            return [Call("modify", path), *closing]
        if news.old and not (self._vfs.is_open(path) or self._vfs.is_open(news.old)):
            return [Call("rename", news.old, path, attr)]
        gone = Call("rmdir" if item.is_dir else "unlink", news.old or path, attr=attr)
        come = [Call("mkdir", path)] if item.is_dir else [Call("create", path), *closing]
        return [gone] * (news.happened is not Happened.CREATED) + come * (
            news.happened is not Happened.DELETED
        )

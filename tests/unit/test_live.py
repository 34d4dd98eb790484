"""Live: the calls that a helper must make for watched changes of the job (Vfs and helper are played here)."""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.waiting import eventually
from tests.unit.cli.world import a_status

from jobfs import live
from jobfs.document import WatchEvent
from jobfs.errors import FsError
from jobfs.fuse.events import EventInjector, HelperCall
from jobfs.live import ChangeNotifier
from jobfs.namespace.differences import Difference, DifferenceKind
from jobfs.nodes import Attr, Item, Kind
from jobfs.vfs import Vfs

#: The process of a program that watches.
PROGRAM = 4711


def inode(path: str) -> int:
    """Of a directory if the path ends in a slash; the root is "/"."""
    return int.from_bytes(path.encode())


def folder(path: str) -> Item:
    return Item(f"id of {path}", Kind.DIRECTORY, path)


def news(words: str) -> list[Difference]:
    """Of `created a, renamed old new`: of a file, of a directory if the path ends in a slash, of a program if in a star."""
    received = []
    for happened, *old, path in (one.split() for one in words.split(", ")):
        name = path.rstrip("/*")
        file = Item(f"id of {name}", Kind.FILE, name, size=1, updated_ns=int(path[-1] == "*"))
        item = folder(name) if path[-1] == "/" else file
        received.append(Difference(DifferenceKind[happened.upper()], name, item, "".join(old)))
    return received


class Shown(Vfs):
    """Shows `there`; a file whose `updated_ns` is 1 is a program."""

    def __init__(self, news: Iterable[Difference], there: set[str]) -> None:
        self.untold, self.there = list(news), {"/", *there}
        self.looks, self.opened, self.asked = 0, set[str](), list[str]()
        self.watching = {"programs": 0, "told": 0, "requests": 0}

    def refresh_if_stale(self) -> None:
        self.looks += 1

    def take_differences(self) -> list[Difference]:
        untold, self.untold = self.untold, []
        return untold

    def last_attr(self, path: str) -> Attr:
        """Of a directory if the path ends in a slash in `there`."""
        if not {path, f"{path}/"} & self.there:
            raise FsError(errno.ENOENT)
        return self.attr_of_item(folder(path) if f"{path}/" in self.there else Item("", Kind.FILE, path))

    def attr_of_item(self, item: Item, path: str = "") -> Attr:
        mode = stat.S_IFDIR | 0o755 if item.is_dir else stat.S_IFREG | (0o755 if item.updated_ns else 0o644)
        ino = inode(item.path + "/" * item.is_dir)
        return Attr(ino, mode, 1, 0, 0, item.size or 0, 0, 0, 0)

    def is_open(self, path: str) -> bool:
        return path in self.opened

    def getattr(self, path: str) -> Attr:
        self.asked.append(path)
        return self.last_attr(path)


class Helper(EventInjector):
    """Notes the calls, and answers `codes` by name and path, else 0."""

    def __init__(self) -> None:
        super().__init__(lambda path: pytest.fail(path))
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}

    def inject(self, call: HelperCall) -> int:
        self.calls.append(" ".join(filter(None, (call.name, call.path, call.new))))
        return self.codes.get(self.calls[-1], 0)


class Pauses(threading.Event):
    """Nobody waits: the seconds are noted. `settled` is called where a program has time to begin to watch."""

    def __init__(self, settled: Callable[[], None]) -> None:
        super().__init__()
        self.settled, self.seconds = settled, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        if timeout == live._SETTLE:
            self.settled()
        return self.is_set()


class Played:
    """A `ChangeNotifier` in which a program watches some paths; `look` is one look, and gives the calls that were made."""

    def __init__(self) -> None:
        self.helper, self.watched = Helper(), {"/"}
        self.limits = live.Limits()
        #: What is watched after each pause.
        self.begun: list[set[str]] = []

    def _watched(self, device: int) -> dict[int, set[int]]:
        return {PROGRAM: {inode(path) for path in self.watched}} if self.watched else {}

    def _settled(self) -> None:
        self.helper.calls.append("pause")
        self.watched = self.begun.pop(0)

    def live(self, untold: str, there: str = "") -> ChangeNotifier:
        self.vfs = Shown(news(untold) if untold else [], set(there.split()))
        made = ChangeNotifier(
            self.vfs, self.helper, events=True, timeout=1.0, find_watched=self._watched, limits=self.limits
        )
        made._stopping = self.pauses = Pauses(self._settled)
        return made

    def look(self, untold: str, there: str = "") -> list[str]:
        self.live(untold, there).notify_once()
        return self.helper.calls


def test_live_survives_any_error() -> None:
    """vfs/semantics.md 7.1: a look that fails is made again."""
    failures, looked = [ValueError("a fault"), OSError(errno.EMFILE, "short")], threading.Event()

    def fails(device: int) -> dict[int, set[int]]:
        if failures:
            raise failures.pop()
        looked.set()
        return {}

    made = ChangeNotifier(
        Shown([], set()), Helper(), events=True, timeout=1.0, find_watched=fails, seldom=0.01
    )
    made.start()
    assert looked.wait(20)
    made.stop()


@pytest.fixture
def played() -> Played:
    return Played()


#: What has happened, what is there now, and the calls that are made.
#: `watched`: by a program; `begun`: after each pause; `opened`: files; `fails`: a call.
CALLS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("created x", "x", "create x, close x", {}), ("changed x", "x", "modify x, close x", {}),
    ("deleted x", "", "unlink x", {}), ("renamed x y", "y", "rename x y", {}),
    ("created d/", "d/", "mkdir d", {}), ("deleted d/", "", "rmdir d", {}),
    # 7.1: a program could not be run while it is open; what is back was not deleted.
    ("created x*", "x", "create x", {}), ("changed x*", "x", "modify x", {}),
    ("deleted x", "x", "", {}), ("deleted x", "x/", "unlink x", {}), ("deleted d/", "d/", "", {}),
    # 7.3: programs get time to watch a new directory, level by level; without a watch there is no event.
    ("created d/, created e/, created d/f/, created d/x, created e/x, created d/f/x", "d/ e/ d/f/ d/x e/x d/f/x",
     "mkdir d, mkdir e, pause, mkdir d/f, create d/x, close d/x, pause, create d/f/x, close d/f/x",
     {"begun": ["/ d/", "/ d/ d/f/"]}),
    # 7.1: a file that has become a directory, and the other way round: the number that is watched is the directory's.
    ("deleted d/in, deleted x, deleted d/, created d, created x/, created x/in", "d x/ x/in",
     "unlink d/in, unlink x, rmdir d, create d, close d, mkdir x, pause, create x/in, close x/in",
     {"watched": "/ d/", "begun": ["/ x/"]}),
    # 7.3: a file that is open, under either name, is not renamed but deleted and created.
    ("renamed x y", "y", "unlink x, create y, close y", {"opened": "x"}),
    ("renamed x y", "y", "unlink x, create y, close y", {"opened": "y"}),
    # 7.3: a program has made a file at the old name since: what is back is not deleted.
    ("renamed x y", "x y", "rename x y, create y, close y", {"fails": "rename x y", "code": errno.EBUSY}),
    ("renamed x y", "y", "rename x y, unlink x, create y, close y", {"fails": "rename x y", "code": errno.EBUSY}),
    ("renamed x y", "x y", "create y, close y", {"opened": "x"}),
    # fuse/notes.md: libfuse would wait for a read in a directory that goes, while the kernel holds the one above.
    ("deleted d/", "", "attributes", {"opened": "d"}),
    # 7.4: where the kernel refuses a call, attributes are reported, and the rest continues.
    ("created d/x, deleted z", "d/ d/x", "create d/x, attributes d, unlink z", {"watched": "d/ /", "fails": "create d/x"}),
    ("changed d/x, deleted z", "d/ d/x", "modify d/x, attributes d/x, unlink z", {"watched": "d/ /", "fails": "modify d/x"}),
    ("changed d/x, deleted z", "d/ d/x", "modify d/x, close d/x, attributes d/x, unlink z",
     {"watched": "d/ /", "fails": "close d/x"}),
    ("deleted x, deleted z", "d/ d/x", "unlink x, attributes, unlink z", {"watched": "d/ /", "fails": "unlink x"}),
    # 7.7: where a helper hangs, the rest of the directory is reported as one: each call more there would wait as long.
    ("created a, created b, created c, created d/a", "a b c d/ d/a",
     "create a, close a, create b, create d/a, close d/a, attributes",
     {"watched": "/ d/", "fails": "create b", "code": errno.ETIMEDOUT}),
]  # fmt: skip


@pytest.mark.parametrize(("untold", "there", "calls", "more"), CALLS)
def test_each_change_is_reported_by_its_system_calls(
    played: Played, untold: str, there: str, calls: str, more: dict[str, Any]
) -> None:
    """vfs/semantics.md 7.1, 7.3, 7.4, 7.7: as the lines of the table say."""
    played.watched = set(more.get("watched", "/").split())
    played.begun = [set(paths.split()) for paths in more.get("begun", [])]
    played.helper.codes = {more.get("fails", ""): more.get("code", errno.EACCES)}
    made = played.live(untold, there)
    played.vfs.opened = {more.get("opened", "")}
    made.notify_once()
    assert (", ".join(played.helper.calls), played.begun) == (calls, [])


def test_events_are_sent_only_for_a_watched_entry_or_directory(played: Played) -> None:
    """vfs/semantics.md 7.1: also for entries that left a directory, and for its content; 7.6: otherwise there is no request."""
    played.watched = {"d/", "e/", "y"}
    untold = (
        "deleted e/in, deleted e/, deleted other, created d/new, created f/new, renamed d/a f/b, renamed f/z f/y, "
        "changed y, changed f/x"
    )
    there = "d/ f/ d/new f/new f/b f/y y f/x"
    calls = "unlink e/in, rmdir e, create d/new, close d/new, rename d/a f/b, modify y, close y"
    assert ", ".join(played.look(untold, there)) == calls
    there_before = {"e/in", "e", "other", "d/a", "f/z", "y", "f/x"}
    assert played.helper.previous_attrs.keys() == there_before, "the helper finds them on its way"
    played.helper.calls.clear()
    played.watched = set()
    idle = played.live(untold, there)
    assert (idle.notify_once(), played.helper.calls, played.vfs.looks) == (2.0, [], 0)
    assert played.vfs.watching["programs"] == 0
    assert not played.vfs.untold, "changes without a watcher have no events"


def test_many_changes_are_reported_at_a_limited_rate(played: Played) -> None:
    """vfs/semantics.md 7.4: what nobody watches does not count. The kernel keeps 16,384 events of a watcher."""
    played.limits = live.Limits(rate=0.01, events=3)
    played.watched = {"d/", "e/"}
    paths = ["f/1", "d/1", "d/2", "d/3", "d/4", "d/5", "e/1"]
    calls = played.look(", ".join(f"changed {path}" for path in paths), "d/ e/ f/")
    singly = [f"{name} {path}" for path in paths[1:4] for name in ("modify", "close")]
    assert (calls[:6], sorted(calls[6:])) == (singly, ["attributes d", "attributes e"])
    assert played.pauses.seconds == pytest.approx([100, 200, 300], abs=60)


def test_an_unknown_size_is_fetched_before_the_helper_needs_it(played: Played) -> None:
    """fuse/notes.md: the kernel holds a directory until a call in it is answered, so no answer to a helper makes a request."""
    made = played.live("", "x")
    played.vfs.untold = [Difference(DifferenceKind.CREATED, "x", Item("1", Kind.FILE, "x"))]
    made.notify_once()
    assert played.vfs.asked == ["x"]


# -- `jobfs watch` gets changes from its start on, and never blocks the thread that looks


@pytest.fixture
def vfs() -> Mock:
    return Mock(status=a_status, take_differences=Mock(return_value=[]), watching={"programs": 0, "told": 0})


@contextmanager
def following(
    vfs: Mock, top: str, receive: Callable[[WatchEvent], Any], **more: Any
) -> Iterator[live.ChangeNotifier]:
    over = threading.Event()
    looking = live.ChangeNotifier(vfs, Mock(mount=("", 0)), events=False, timeout=5.0, **more)
    thread = threading.Thread(target=looking.follow, args=(top, receive, over.is_set))
    thread.start()
    try:
        eventually(lambda: vfs.watching["programs"] == 1)
        yield looking
    finally:
        over.set()
        thread.join(20)


def test_a_subscription_reports_later_changes_below_its_path(vfs: Mock) -> None:
    """vfs/semantics.md 7.6, 7.9: what was unseen because nobody looked is no news."""
    received: list[WatchEvent] = []
    later = "created dir, created dirt, created dir/in, renamed dir/x out, deleted dir/in"
    vfs.take_differences.side_effect = [news("created dir/before"), news(later)]
    with following(vfs, "dir", received.append) as looking:
        assert looking.notify_once() == 1.0
        eventually(lambda: len(received) == 5)
    assert [each["path"] for each in received] == [None, "dir", "dir/in", "out", "dir/in"]
    assert [each["size"] for each in received] == [None, 1, 1, 1, None]
    assert vfs.watching == {"programs": 0, "told": 5}
    vfs.take_differences.side_effect = None
    vfs.refresh_if_stale.reset_mock()
    assert looking.notify_once() >= 2.0
    vfs.refresh_if_stale.assert_not_called()


def test_a_slow_subscriber_misses_changes_and_gets_a_notice(vfs: Mock) -> None:
    """vfs/semantics.md 7.9: and delays no other subscriber."""
    going_on, received, other = threading.Event(), list[WatchEvent](), list[WatchEvent]()

    def slow(each: WatchEvent) -> None:
        going_on.wait(20)
        received.append(each)

    with following(vfs, "", slow, limits=live.Limits(waiting=10)) as looking, ThreadPoolExecutor(1) as pool:
        pool.submit(looking.follow, "", other.append, going_on.is_set)
        eventually(lambda: vfs.watching["programs"] == 2)
        vfs.take_differences.return_value = news(", ".join(f"created f{number}" for number in range(50)))
        looking.notify_once()
        looking.notify_once()
        eventually(lambda: "created" in [each["what"] for each in other])
        going_on.set()
        eventually(lambda: len(received) >= 12)
    assert [each["what"] for each in received] == ["job", "missed", *["created"] * 10]

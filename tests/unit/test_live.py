"""Live: which calls a helper is to make, for what the job does and somebody watches (Vfs and helper are played here)."""

from __future__ import annotations

import errno
import stat
import threading
from collections.abc import Callable, Iterable

import pytest

from jobfs import live, watchers
from jobfs.errors import FsError
from jobfs.fuse.telling import Call, Teller
from jobfs.live import Live
from jobfs.namespace.news import Happened, News
from jobfs.nodes import Attr, Item, Kind
from jobfs.vfs import Vfs

#: The process of a program that watches.
PROGRAM = 4711
CREATED, CHANGED, DELETED, RENAMED = Happened


def inode(path: str) -> int:
    """Of a directory if the path ends in a slash; the root is "/"."""
    return int.from_bytes(path.encode())


def folder(path: str) -> Item:
    return Item(f"id of {path}", Kind.DIRECTORY, path)


def news(happened: Happened, path: str, old: str = "", program: int = 0) -> News:
    """Of a file, or of a directory if the path ends in a slash."""
    name = path.rstrip("/")
    file = Item(f"id of {name}", Kind.FILE, name, size=1, updated_ns=program)
    return News(happened, name, folder(name) if path != name else file, old)


class Shown(Vfs):
    """Shows `there`; a file whose `updated_ns` is 1 is a program."""

    def __init__(self, news: Iterable[News], there: set[str]) -> None:
        self.untold, self.there = list(news), {"/", *there}
        self.looks, self.opened, self.asked = 0, set[str](), list[str]()
        self.watching = {"programs": 0, "told": 0, "requests": 0}

    def look(self) -> None:
        self.looks += 1

    def news(self) -> list[News]:
        untold, self.untold = self.untold, []
        return untold

    def known(self, path: str) -> Attr:
        """Of a directory if the path ends in a slash in `there`."""
        if not {path, f"{path}/"} & self.there:
            raise FsError(errno.ENOENT)
        return self.attr_of(folder(path) if f"{path}/" in self.there else Item("", Kind.FILE, path))

    def attr_of(self, item: Item, path: str = "") -> Attr:
        mode = stat.S_IFDIR | 0o755 if item.is_dir else stat.S_IFREG | (0o755 if item.updated_ns else 0o644)
        ino = inode(item.path + "/" * item.is_dir)
        return Attr(ino, mode, 1, 0, 0, item.size or 0, 0, 0, 0)

    def is_open(self, path: str) -> bool:
        return path in self.opened

    def getattr(self, path: str) -> Attr:
        self.asked.append(path)
        return self.known(path)


class Helper(Teller):
    """Notes the calls, and answers `codes` by name and path, else 0."""

    def __init__(self) -> None:
        super().__init__(lambda path: pytest.fail(path))
        self.calls: list[str] = []
        self.codes: dict[str, int] = {}

    def tell(self, call: Call) -> int:
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
    """A `Live` in which a program watches some paths; `look` is one look, and gives the calls that were made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.helper, self.watched = Helper(), {"/"}
        #: What is watched after each pause.
        self.begun: list[set[str]] = []
        monkeypatch.setattr(watchers, "watched", self._watched)

    def _watched(self, device: int) -> dict[int, set[int]]:
        return {PROGRAM: {inode(path) for path in self.watched}} if self.watched else {}

    def _settled(self) -> None:
        self.helper.calls.append("pause")
        self.watched = self.begun.pop(0)

    def live(self, *untold: News, there: str = "", events: bool = True) -> Live:
        self.vfs = Shown(untold, set(there.split()))
        made = Live(self.vfs, self.helper, events=events, timeout=1.0)
        made._stopping = self.pauses = Pauses(self._settled)
        return made

    def look(self, *untold: News, there: str = "") -> list[str]:
        self.live(*untold, there=there)._look()
        return self.helper.calls


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


@pytest.mark.parametrize(
    ("untold", "there", "calls"),
    [
        (news(CREATED, "x"), "x", ["create x", "close x"]),
        (news(CHANGED, "x"), "x", ["modify x", "close x"]),
        (news(DELETED, "x"), "", ["unlink x"]),
        (news(RENAMED, "y", "x"), "y", ["rename x y"]),
        (news(CREATED, "d/"), "d/", ["mkdir d"]),
        (news(DELETED, "d/"), "", ["rmdir d"]),
        (news(CREATED, "x", program=1), "x", ["create x"]),
        (news(CHANGED, "x", program=1), "x", ["modify x"]),
        (news(DELETED, "x"), "x", []),
        (news(DELETED, "x"), "x/", ["unlink x"]),
        (news(DELETED, "d/"), "d/", []),
    ],
)
def test_each_change_is_told_by_its_calls(played: Played, untold: News, there: str, calls: list[str]) -> None:
    """vfs/semantics.md 7.1: a program could not be run while it is open; what is back was not deleted."""
    assert played.look(untold, there=there) == calls


def test_who_watches_the_directory_or_the_thing_itself_is_told_and_nobody_else(played: Played) -> None:
    """vfs/semantics.md 7.1: also of what has left a directory, and of what is gone with it; 7.6: else nothing is asked."""
    played.watched = {"d/", "e/", "y"}
    all_news = [
        news(DELETED, "e/in"), news(DELETED, "e/"), news(DELETED, "other"),
        news(CREATED, "d/new"), news(CREATED, "f/new"),
        news(RENAMED, "f/b", "d/a"), news(RENAMED, "f/y", "f/z"), news(CHANGED, "y"), news(CHANGED, "f/x"),
    ]  # fmt: skip
    there = "d/ f/ d/new f/new f/b f/y y f/x"
    expected = [
        "unlink e/in", "rmdir e", "create d/new", "close d/new", "rename d/a f/b", "modify y", "close y"
    ]  # fmt: skip
    assert played.look(*all_news, there=there) == expected
    there_before = {"e/in", "e", "other", "d/a", "f/z", "y", "f/x"}
    assert played.helper.before.keys() == there_before, "the helper finds them on its way"
    played.helper.calls.clear()
    played.watched = set()
    idle = played.live(*all_news, there=there)
    assert (idle._look(), played.helper.calls, played.vfs.looks, played.vfs.watching["programs"]) == (
        2.0,
        [],
        0,
        0,
    )
    assert not played.vfs.untold, "what happened while nobody watched is told to nobody"


def test_who_watches_a_new_directory_has_time_to_before_its_content_is_told(played: Played) -> None:
    """vfs/semantics.md 7.3: level by level; who has not begun by then is not told."""
    played.begun = [{"/", "d/"}, {"/", "d/", "d/f/"}]
    created = [news(CREATED, path) for path in ("d/", "e/", "d/f/", "d/x", "e/x", "d/f/x")]
    assert played.look(*created, there="d/ e/ d/f/ d/x e/x d/f/x") == [
        "mkdir d", "mkdir e", "pause", "mkdir d/f", "create d/x", "close d/x", "pause", "create d/f/x", "close d/f/x"
    ]  # fmt: skip


def test_a_file_that_has_become_a_directory_is_told_with_all_in_it_and_the_other_way_round(
    played: Played,
) -> None:
    """vfs/semantics.md 7.1: the number that is watched is that of the directory, whatever was at its path."""
    played.watched, played.begun = {"/", "d/"}, [{"/", "x/"}]
    changes = [
        news(DELETED, "d/in"),
        news(DELETED, "x"),
        news(DELETED, "d/"),
        news(CREATED, "d"),
        news(CREATED, "x/"),
    ]
    assert played.look(*changes, news(CREATED, "x/in"), there="d x/ x/in") == [
        "unlink d/in", "unlink x", "rmdir d", "create d", "close d", "mkdir x", "pause", "create x/in", "close x/in"
    ]  # fmt: skip


def test_a_file_that_is_open_is_not_renamed_but_deleted_and_created(played: Played) -> None:
    """vfs/semantics.md 7.3: under either name."""
    for opened in ("x", "y"):
        made = played.live(news(RENAMED, "y", "x"), there="y")
        played.vfs.opened = {opened}
        made._look()
    assert played.helper.calls == ["unlink x", "create y", "close y"] * 2


@pytest.mark.parametrize(
    ("untold", "failing", "calls"),
    [
        (news(CREATED, "d/x"), "create d/x", ["create d/x", "attributes d"]),
        (news(CHANGED, "d/x"), "modify d/x", ["modify d/x", "attributes d/x"]),
        (news(CHANGED, "d/x"), "close d/x", ["modify d/x", "close d/x", "attributes d/x"]),
        (news(DELETED, "x"), "unlink x", ["unlink x", "attributes"]),
    ],
)
def test_where_the_kernel_refuses_a_call_attributes_are_told_and_it_goes_on(
    played: Played, untold: News, failing: str, calls: list[str]
) -> None:
    """vfs/semantics.md 7.4."""
    played.watched, played.helper.codes = {"d/", "/"}, {failing: errno.EACCES}
    assert played.look(untold, news(DELETED, "z"), there="d/ d/x") == [*calls, "unlink z"]


def test_where_a_helper_hangs_the_rest_of_the_directory_is_told_as_one(played: Played) -> None:
    """vfs/semantics.md 7.7: each call more there would wait as long."""
    played.watched, played.helper.codes = {"/", "d/"}, {"create b": errno.ETIMEDOUT}
    paths = ["a", "b", "c", "d/a"]
    assert played.look(*(news(CREATED, path) for path in paths), there="a b c d/ d/a") == [
        "create a", "close a", "create b", "create d/a", "close d/a", "attributes"
    ]  # fmt: skip


def test_a_directory_in_which_a_file_is_open_is_not_taken_away(played: Played) -> None:
    """fuse/notes.md: libfuse would wait for a read in it, while the kernel holds the directory above."""
    made = played.live(news(DELETED, "d/"))
    played.vfs.opened = {"d"}
    made._look()
    assert played.helper.calls == ["attributes"]


def test_many_changes_are_told_at_a_rate_and_beyond_a_number_by_directory(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 7.4: what nobody watches does not count. The kernel keeps 16,384 events of a watcher."""
    monkeypatch.setattr(live, "_MOST", 3)
    monkeypatch.setattr(live, "_RATE", 0.01)
    played.watched = {"d/", "e/"}
    paths = ["f/1", "d/1", "d/2", "d/3", "d/4", "d/5", "e/1"]
    calls = played.look(*(news(CHANGED, path) for path in paths), there="d/ e/ f/")
    singly = [f"{name} {path}" for path in paths[1:4] for name in ("modify", "close")]
    assert (calls[:6], sorted(calls[6:])) == (singly, ["attributes d", "attributes e"])
    assert played.pauses.seconds == pytest.approx([100, 200, 300], abs=60)


def test_a_size_that_is_not_known_is_asked_for_before_the_helper_asks(played: Played) -> None:
    """fuse/notes.md: the kernel holds a directory until a call in it is answered, so no answer to a helper makes a request."""
    played.look(News(CREATED, "x", Item("1", Kind.FILE, "x")), there="x")
    assert played.vfs.asked == ["x"]

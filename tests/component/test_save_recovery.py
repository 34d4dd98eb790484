"""What the next mount makes of what the journal says and the server has (save-protocol, Recovery)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal, quick_finishing
from tests.support.serverside import contents, hidden, visible

from jobfs.emulator import Server
from jobfs.names import Role, basename, hidden_path, new_transaction_id
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Aside, Attempt, Base, Save, SaveKind, State

NEW, OLD = b"the new content", b"the old"
TARGET = "dir/file.txt"


class Left:
    """What a mount that died has left: journal, local bytes, hidden items."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        server.store.seed({TARGET: OLD}, age=60)
        self.home = home
        first = Mortal(server, home, Boundaries())
        first.start()
        self.place, self.mount = first._slot.path, first._slot.mount_id
        first.stop()
        self.save = Save(1000, SaveKind.SAVE, TARGET, ino=77, generation=2000, size=len(NEW))
        item = server.store.item(TARGET)
        self.save.base = Base(item.id, "", len(OLD))
        self.records: list[Save | Aside | Attempt] = [self.save]

    def with_bytes(self, content: bytes = NEW) -> None:
        (self.place / "bytes" / f"{77:016x}.2000").write_bytes(content)

    def begun(self) -> str:
        """A create was begun; the hidden path of its item."""
        self.save.tid = new_transaction_id()
        self.records.append(Attempt(self.save.tid, self.save.seq, 1.0))
        return hidden_path(TARGET, self.mount, self.save.tid, Role.STAGED)

    def staged(self, *, there: bool = True) -> None:
        path = self.begun()
        (item,) = self.server.store.seed({path: NEW})
        self.save.state, self.save.staged_id = State.STAGED, item.id
        if not there:
            self.server.store.delete(path)

    def aside(self, *, moved: bool) -> None:
        tid = new_transaction_id()
        path = hidden_path(TARGET, self.mount, tid, Role.ASIDE)
        item = self.server.store.item(TARGET)
        self.records.append(Aside(item.id, self.save.seq, basename(path), path=path, size=len(OLD)))
        self.records.append(Attempt(tid, self.save.seq, 1.0))
        if moved:
            self.server.store.move(TARGET, path)

    def taken_up(self) -> dict[str, bytes | None]:
        """The tree after the next mount has done all there is to do."""
        with closing(Journal(self.place / "journal.db")) as journal:
            journal.write(*self.records)
        with quick_finishing():
            work = Mortal(self.server, self.home, Boundaries())
            work.start()
            try:
                work.settle()
                assert [*work.engine.journal.load(Save), *work.engine.journal.load(Aside)] == []
                work.engine.sync()
                assert list((self.place / "bytes").iterdir()) == []
            finally:
                work.stop()
        assert hidden(self.server) == []
        return visible(self.server)


@pytest.fixture
def left(server: Server, tmp_path: Path) -> Left:
    return Left(server, tmp_path / "home")


def newest(left: Left) -> None:
    """The new content is at the name, the old one is not lost or was the base."""
    left.taken_up()
    assert left.server.store.read(TARGET) == NEW
    assert contents(left.server) in ([NEW], sorted([NEW, OLD]))


def test_staging_with_the_hidden_item_there_goes_on(left: Left) -> None:
    left.with_bytes()
    left.server.store.seed({left.begun(): NEW})
    newest(left)


def test_staging_with_half_an_item_there_is_created_again(left: Left) -> None:
    """save-protocol, `staging`: there with the right size: take its id; else create again."""
    left.with_bytes()
    left.server.store.seed({left.begun(): NEW[:3]})
    left.taken_up()
    assert left.server.store.read(TARGET) == NEW


def test_staging_with_nothing_there_is_created_again(left: Left) -> None:
    left.with_bytes()
    left.begun()
    newest(left)


@pytest.mark.parametrize("content", [None, NEW[:4]])
def test_staging_without_whole_bytes_is_dropped(left: Left, content: bytes | None) -> None:
    """save-protocol, Recovery: it was never acknowledged."""
    if content is not None:
        left.with_bytes(content)
    left.begun()
    left.taken_up()
    assert left.server.store.read(TARGET) == OLD


@pytest.mark.parametrize("moved", [True, False])
def test_staged_is_placed(left: Left, moved: bool) -> None:
    left.with_bytes()
    left.staged()
    left.aside(moved=moved)
    newest(left)


def test_staged_with_its_item_under_any_other_name_is_promoted(left: Left) -> None:
    """save-protocol R6."""
    left.with_bytes()
    left.staged()
    left.aside(moved=True)
    path = left.server.store.by_id(left.save.staged_id).path
    left.server.store.move(path, "dir/renamed by the job")
    left.taken_up()
    assert left.server.store.read("dir/renamed by the job") == NEW


def test_staged_with_its_item_gone_is_staged_again(left: Left) -> None:
    left.with_bytes()
    left.staged(there=False)
    left.aside(moved=True)
    newest(left)


def test_staged_with_its_item_and_its_bytes_gone_is_undone(left: Left) -> None:
    """save-protocol, undo: only when the new content is gone for good."""
    left.staged(there=False)
    left.aside(moved=True)
    with closing(Journal(left.place / "journal.db")) as journal:
        journal.write(*left.records)
    with quick_finishing():
        work = Mortal(left.server, left.home, Boundaries())
        work.start()
        work.vfs.flush_all(None, 5, None)
        assert left.server.store.read(TARGET) == OLD
        work.stop()


@pytest.mark.parametrize("act", [lambda left: left.staged(), lambda left: left.begun()])
def test_cancelled_is_continued(left: Left, act: Callable[[Left], None]) -> None:
    """save-protocol R10: delete H where it is ours."""
    left.with_bytes()
    act(left)
    left.save.state = State.CANCELLED
    left.save.base = Base()
    left.taken_up()
    assert visible(left.server) == {"dir": None, TARGET: OLD}


@pytest.mark.parametrize("there", [None, NEW, b"the job's"])
def test_a_direct_create_is_looked_for_at_its_target(left: Left, there: bytes | None) -> None:
    """save-protocol, Recovery, direct create: T has nothing: create; the same bytes: promoted; other: the hidden way."""
    left.with_bytes()
    left.save.direct, left.save.base = True, Base()
    left.server.store.delete(TARGET)
    if there is not None:
        left.server.store.seed({TARGET: there})
    tree = left.taken_up()
    assert tree.pop(TARGET) == NEW
    beside = [content for path, content in tree.items() if path != "dir"]
    assert beside == ([there] if there == b"the job's" else [])
    if there == NEW:
        assert [entry.operation for entry in left.server.log.changes()] == [], "it was there already"

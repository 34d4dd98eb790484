"""The next mount goes on from its journal and from what the server has: a test for each row of save/protocol.md, Recovery."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import contents, hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_transaction_id
from jobfs.nodes import Kind
from jobfs.save import rename
from jobfs.state import Change, File, edit
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT
from jobfs.state.records import Aside, Base, Record, Stage, Verb

NEW, OLD, DRAFT = b"the new content", b"the old", b"what is renamed over it"
SECOND = b"what is saved after the restart"
TARGET, SOURCE = "dir/file.txt", "dir/draft.txt"
INO, GENERATION = 77, 2000


class Left:
    """What a mount that died has left: journal, local bytes, hidden items."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        server.store.seed({TARGET: OLD}, age=60)
        self.home = home
        first = Mortal(server, home, Boundaries())
        first.start()
        self.place, self.mount = first._slot.path, first.mount_id
        (item,) = first.write_back.client.find(TARGET)
        first.stop()
        server.log.clear()
        self.base = Base.from_item(item, sha256=sha256(OLD).hexdigest())
        self.file = File(INO, path=TARGET, item_id=item.id, generation=GENERATION, size=len(NEW), boot=BOOT)
        self.file.base = self.base
        self.change = Change(1000, Verb.PUT, TARGET, ino=INO, generation=GENERATION, size=len(NEW))
        self.change.base = self.base
        self.records: list[Record] = [self.change, self.file]
        self.used: list[str] = []

    def with_bytes(self, content: bytes = NEW) -> None:
        (self.place / "bytes" / f"{INO:016x}.{GENERATION}").write_bytes(content)

    def begun(self, *, recorded: bool = True) -> str:
        """A create was begun; returns the hidden path of its item."""
        self.change.tid = tid = new_transaction_id()
        if recorded:
            self.used.append(tid)
        return hidden_path(self.change.target, self.mount, tid, Role.STAGED)

    def staged(self, *, there: bool = True) -> str:
        path = self.begun()
        (item,) = self.server.store.seed({path: NEW})
        self.change.stage, self.change.staged_id = Stage.STAGED, item.id
        if not there:
            self.server.store.delete(path)
        return path

    def aside(self, path: str = TARGET, *, moved: bool, removed: bool = False) -> str:
        """An item was about to be set aside; returns the hidden path that it was to have."""
        tid = new_transaction_id()
        away = hidden_path(path, self.mount, tid, Role.REMOVED if removed else Role.ASIDE)
        item = self.server.store.item_at(path)
        kind = Kind.DIRECTORY if item.is_dir else Kind.FILE
        updated_at = "" if removed else self.base.updated_at
        self.change.asides.append(Aside(item.id, away, kind, moved, len(OLD), updated_at))
        self.used.append(tid)
        if moved:
            self.server.store.move(path, away)
        return away

    def instead(self, verb: Verb, target: str = TARGET, **values: Any) -> None:
        """The change was no save, but one of this verb."""
        self.change = Change(1000, verb, target, **values)
        self.records = [self.change]

    def renamed_over(self, *, unsent: bool) -> None:
        """SOURCE was about to be renamed over TARGET, whose item is set aside; `unsent`: a file with unsent bytes was there."""
        (source,) = self.server.store.seed({SOURCE: DRAFT}, age=60)
        self.instead(Verb.MOVE, stage=Stage.STAGED, source=SOURCE, staged_id=source.id, base=self.base)
        if unsent:
            self.with_bytes()
            self.change.ino = INO
            self.records.append(self.file)
        self.aside(moved=True)

    def write(self) -> None:
        with closing(Journal(self.place / "journal.db")) as journal:
            journal.write(*(edit(record) for record in self.records))
            for tid in self.used:
                journal.write(transaction_id=tid)

    def taken_up(self, look: Callable[[Mortal], object] = lambda work: None) -> dict[str, bytes | None]:
        """The tree after the next mount has done all there is to do, and nothing is left here."""
        self.write()
        work = Mortal(self.server, self.home, Boundaries())
        work.start()
        try:
            look(work)
            work.settle()
            assert work.state.journal.load_records(Change) == []
            assert [file for file in work.state.journal.load_records(File) if file.generation] == []
            work.state.store.sync()
            assert list((self.place / "bytes").iterdir()) == []
        finally:
            work.stop()
        assert hidden(self.server) == []
        return visible(self.server)


@pytest.fixture
def left(server: Server, tmp_path: Path) -> Left:
    return Left(server, tmp_path / "home")


def newest(left: Left) -> None:
    """The new content is at the name, from the first look on; the old one is not lost or was the base."""

    def shown(work: Mortal) -> None:
        assert work.read(TARGET) == NEW

    left.taken_up(shown)
    assert left.server.store.read(TARGET) == NEW
    assert contents(left.server) in ([NEW], sorted([NEW, OLD]))


def test_an_unsent_file_renamed_to_scratch_leaves_no_server_version(
    server: Server, mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.35."""
    monkeypatch.setattr(rename, "SCRATCH_DELAY", 60.0)
    server.store.seed({TARGET: OLD}, age=60)
    first = mortal(write_back_delay=60.0)
    first.write(TARGET, NEW)
    first.vfs.rename(TARGET, f"{TARGET}~")
    first.boundaries.dead = True
    first.end()
    again = mortal()
    again.settle()
    assert (again.names("dir"), again.read(f"{TARGET}~")) == (["file.txt~"], NEW)
    assert visible(server) == {"dir": None}


@pytest.mark.parametrize("there", [NEW, NEW[:3], None], ids=["all of it", "half of it", "nothing"])
def test_a_staging_change_is_resumed_or_created_again(left: Left, there: bytes | None) -> None:
    left.with_bytes()
    path = left.begun()
    if there is not None:
        left.server.store.seed({path: there})
    newest(left)


@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
@pytest.mark.parametrize("moved", [True, False, None], ids=["moved", "not moved", "moved unseen"])
def test_a_staged_change_is_placed(left: Left, moved: bool | None, there: bool) -> None:
    """save/protocol.md, Recovery: find T, go on; where the staged item is gone: stage again."""
    left.with_bytes()
    left.staged(there=there)
    left.aside(moved=moved is not False)
    if moved is None:
        left.change.asides[0].moved = False
        left.change.asides[0].updated_at = ""
    newest(left)


def test_a_staged_change_without_item_and_bytes_is_undone(left: Left) -> None:
    """save/protocol.md, The steps, undo: only when the new content is gone for good."""
    left.staged(there=False)
    left.aside(moved=True)
    assert left.taken_up() == {"dir": None, TARGET: OLD}


def test_a_cancelled_change_keeps_a_version_other_than_its_base(left: Left) -> None:
    """save/protocol.md R10: T's item if it is base or our own bytes."""
    left.with_bytes()
    left.staged()
    left.change.stage, left.change.base = Stage.CANCELLED, Base()
    left.records.remove(left.file)
    assert left.taken_up() == {"dir": None, TARGET: OLD}


@pytest.mark.parametrize("there", [None, NEW, b"the job's"])
def test_recovery_looks_for_a_direct_create_at_its_target(left: Left, there: bytes | None) -> None:
    """save/protocol.md, Recovery, direct create: T has nothing: create; the same bytes: placed; other: the hidden way."""
    left.with_bytes()
    left.change.direct, left.change.base, left.file.base, left.file.item_id = True, Base(), Base(), ""
    left.server.store.delete(TARGET)
    if there is not None:
        left.server.store.seed({TARGET: there})
    tree = left.taken_up()
    assert tree.pop(TARGET) == NEW
    beside = [content for path, content in tree.items() if path != "dir"]
    assert beside == ([there] if there == b"the job's" else [])
    if there == NEW:
        assert [entry.operation for entry in left.server.log.changes()] == [], "it was there already"


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@pytest.mark.parametrize("then", ["nothing", "unlinked", "saved", "being written"])
def test_a_rename_over_an_unsent_file_drops_only_the_unsent_bytes(left: Left, done: bool, then: str) -> None:
    """vfs/semantics.md 4: bytes acknowledged at a name are kept, though a rename that was killed takes the name only now."""
    left.renamed_over(unsent=True)
    if done:
        left.server.store.move(SOURCE, TARGET)
    left.server.faults.set_rate("unavailable", 1.0)

    def act(work: Mortal) -> None:
        assert work.read(TARGET) == NEW
        if then == "saved":
            work.write(TARGET, SECOND)
        fh = work.vfs.open(TARGET, os.O_WRONLY | os.O_TRUNC).fh if then == "being written" else 0
        if fh:
            work.vfs.write(fh, SECOND, 0)
        left.server.faults.clear()
        if then == "unlinked":
            work.vfs.unlink(TARGET)
        eventually(lambda: not any(change.verb is Verb.MOVE for change in work.state.changes.values()))
        if fh:
            work.vfs.flush(fh)
            work.vfs.release(fh)

    tree = left.taken_up(act)
    shown, kept = {"nothing": (DRAFT, [DRAFT]), "unlinked": (None, [])}.get(then, (SECOND, [DRAFT, SECOND]))
    assert tree.get(TARGET) == shown
    assert sorted(contents(left.server)) == sorted(kept)


def test_a_rename_over_a_file_is_undone_if_its_source_is_gone(left: Left) -> None:
    left.renamed_over(unsent=False)
    left.server.store.delete(SOURCE)
    assert left.taken_up() == {"dir": None, TARGET: OLD}


@pytest.mark.parametrize("full", [False, True], ids=["empty", "the job put something in"])
@pytest.mark.parametrize("stage", [Stage.STAGED, Stage.PLACED])
@pytest.mark.parametrize("moved", [False, True], ids=["there", "away"])
def test_recovery_checks_a_removed_directory_again(left: Left, full: bool, stage: Stage, moved: bool) -> None:
    """save/protocol.md R12: still empty: delete; else back to its name."""
    left.server.store.seed({"box": None}, age=60)
    left.instead(Verb.REMOVE, "box", stage=stage)
    away = left.aside("box", moved=moved, removed=True)
    if full:
        left.server.store.seed({f"{away if moved else 'box'}/new": b"of the job"})
    tree = left.taken_up()
    there = {"box/new": b"of the job"} if full else {}
    assert {path: c for path, c in tree.items() if path.startswith("box/")} == there
    if moved:
        assert ("box" in tree) is full

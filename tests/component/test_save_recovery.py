"""The next mount continues a save from its journal and from what the server has (save/protocol.md, Recovery)."""

from __future__ import annotations

from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import contents, hidden, visible

from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_transaction_id
from jobfs.state import Change, File, edit
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT, generation_path
from jobfs.state.records import Aside, Base, Stage, Verb

NEW, OLD, TARGET = b"the new content", b"the old", "dir/file.txt"
INO, GENERATION = 77, 2000


class StagedSave:
    """The journal, local bytes and hidden items of a mount that died after it had staged a save of TARGET."""

    def __init__(self, server: Server, home: Path) -> None:
        server.store.seed({TARGET: OLD}, age=60)
        self.server, self.home = server, home
        first = Mortal(server, home, Boundaries())
        first.start()
        self._directory, self._mount = first.state_directory, first.mount_id
        (item,) = first.write_back.client.find(TARGET)
        first.stop()
        base = Base.from_item(item, sha256=sha256(OLD).hexdigest())
        values = {"generation": GENERATION, "size": len(NEW), "base": base}
        self._tids = [new_transaction_id(), new_transaction_id()]
        self.staged_path = hidden_path(TARGET, self._mount, self._tids[0], Role.STAGED)
        (staged,) = server.store.seed({self.staged_path: NEW})
        self.file = File(INO, path=TARGET, item_id=item.id, boot=BOOT, **values)
        self.change = Change(
            1000, Verb.PUT, TARGET, Stage.STAGED, ino=INO, tid=self._tids[0], staged_id=staged.id, **values
        )
        generation_path(self._directory / "bytes", INO, GENERATION).write_bytes(NEW)

    def set_aside(self, *, moved: bool, recorded: bool) -> None:
        """Plan to set the target aside; `moved`: that was carried out; `recorded`: the journal has the outcome."""
        item = self.server.store.item_at(TARGET)
        path = hidden_path(TARGET, self._mount, self._tids[1], Role.ASIDE)
        base = self.change.base
        self.change.asides = [
            Aside(
                item.id, path, moved=recorded and moved, size=len(OLD), updated_at=base.updated_at * recorded
            )
        ]
        if moved:
            self.server.store.move(TARGET, path)

    def finish_in_next_mount(self, *, shows: bytes | None, unlinked: bool = False) -> None:
        """Let the next mount, which shows this at TARGET from its start, finish the save; check that nothing is left here."""
        with closing(Journal(self._directory / "journal.db")) as journal:
            journal.write(edit(self.change), *([] if unlinked else [edit(self.file)]))
            for tid in self._tids:
                journal.write(transaction_id=tid)
        work = Mortal(self.server, self.home, Boundaries())
        work.start()
        try:
            assert (work.read(TARGET) if work.exists(TARGET) else None) == shows
            work.settle()
            assert work.state.journal.load_records(Change) == []
            assert [file for file in work.state.journal.load_records(File) if file.generation] == []
            work.state.store.sync()
            assert list((self._directory / "bytes").iterdir()) == []
        finally:
            work.stop()
        assert hidden(self.server) == []


@pytest.fixture
def save(server: Server, tmp_path: Path) -> StagedSave:
    return StagedSave(server, tmp_path / "home")


@pytest.mark.parametrize("there", [True, False], ids=["there", "gone"])
@pytest.mark.parametrize("moved", [True, False, None], ids=["moved", "not moved", "moved unseen"])
def test_a_staged_change_is_placed(save: StagedSave, moved: bool | None, there: bool) -> None:
    """save/protocol.md, Recovery: find T, continue; where the staged item is gone: stage again."""
    if not there:
        save.server.store.delete(save.staged_path)
    save.set_aside(moved=moved is not False, recorded=moved is not None)
    save.finish_in_next_mount(shows=NEW)
    assert save.server.store.read(TARGET) == NEW
    assert contents(save.server) in ([NEW], sorted([NEW, OLD]))


def test_a_cancelled_change_keeps_a_version_other_than_its_base(save: StagedSave) -> None:
    """save/protocol.md R10: T's item if it is base or our own bytes."""
    save.change.stage, save.change.base = Stage.CANCELLED, Base()
    save.finish_in_next_mount(shows=None, unlinked=True)
    assert visible(save.server) == {"dir": None, TARGET: OLD}

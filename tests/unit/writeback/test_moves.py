"""Renaming a directory: the records of all that is unsent below it go along, those that are done stay gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running
from jobfs.writeback.records import Save, SaveKind, State
from jobfs.writeback.transaction import Transaction


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Workspace]:
    (tmp_path / "server").mkdir()
    with running(EmulatorConfig(behaviour=Behaviour()), tmp_path / "server") as server:
        work = Workspace(server, tmp_path / "home")
        work.start()
        yield work
        work.stop()


def test_a_save_that_ends_while_its_directory_is_renamed_leaves_no_record(work: Workspace) -> None:
    """save-protocol, `done`: the record goes, and is not written again."""
    server: Server = work.server
    server.store.seed({"dir/file": "content"})
    engine = work.vfs._engine
    assert work.names("dir") == ["file"]
    ended = Transaction(Save(10_000, SaveKind.SAVE, "dir/file", State.DONE))
    # As the uploader knows it for an instant, when the finisher has just ended it.
    engine.uploader._live[10_000] = ended
    unsent = Save(10_001, SaveKind.SAVE, "dir/other", State.CANCELLED)
    engine.uploader._live[10_001] = Transaction(unsent)
    try:
        work.vfs.rename("dir", "moved")
    finally:
        del engine.uploader._live[10_000], engine.uploader._live[10_001]
    assert [(save.seq, save.target) for save in engine.journal.load(Save)] == [(10_001, "moved/other")]
    engine.journal.write(gone=[unsent])
    settled(work)

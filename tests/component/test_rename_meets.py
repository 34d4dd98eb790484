"""A directory is renamed while a file in it is just being closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from jobfs.writeback.records import Save
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

OLD, USERS = b"the old content", b"what the user wrote"


def test_what_is_closed_while_its_directory_is_renamed_goes_along(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4, rename of a directory: everything under it is re-keyed."""
    server.store.seed({"dir/file": OLD}, age=60)
    work = start(write_back_delay=30)
    fh = work.vfs.open("dir/file", 2).fh
    work.vfs.write(fh, USERS, 0)
    journal = work.vfs._state.journal
    write = journal.write
    renamed = threading.Thread(target=work.vfs.rename, args=["dir", "moved"])

    def meets(*records: Any, **more: Any) -> None:
        if any(isinstance(record, Save) for record in records):
            monkeypatch.undo()
            renamed.start()
            eventually(lambda: server.store.exists("moved"))
            renamed.join(0.3)
        write(*records, **more)

    monkeypatch.setattr(journal, "write", meets)
    work.vfs.flush(fh)
    renamed.join(10)
    work.vfs.release(fh)
    settled(work)
    assert visible(server) == {"moved": None, "moved/file": USERS}
    assert work.read("moved/file") == USERS

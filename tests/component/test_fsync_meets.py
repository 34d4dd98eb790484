"""An fsync that waits for a save meets an unlink or a newer version of the file, just before it begins to send."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jobfs.writeback.transaction import Transaction
from tests.support.serverside import visible
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

OLD, USERS, SECOND = b"the old content", b"what the user wrote", b"what comes after it"


@pytest.fixture
def work(start: Callable[..., Workspace]) -> Workspace:
    return start(write_back_delay=30)


@pytest.fixture
def fh(work: Workspace) -> Iterator[int]:
    """A new file, closed once, open to be synced."""
    work.write("file", USERS)
    fh = work.vfs.open("file", 2).fh
    yield fh
    work.vfs.release(fh)


def test_a_file_that_is_unlinked_then_does_not_come_back(
    server: Server, work: Workspace, fh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: a file unlinked while open never comes back."""
    uploader = work.vfs._engine.uploader
    commit = uploader.commit

    def meets(waited: Transaction, *more: Any) -> None:
        monkeypatch.undo()
        work.vfs.unlink("file")
        commit(waited, *more)

    monkeypatch.setattr(uploader, "commit", meets)
    work.vfs.fsync(fh)
    settled(work)
    assert visible(server) == {}
    assert work.names() == []


def test_a_version_that_is_closed_then_is_the_one_that_is_sent(
    server: Server, work: Workspace, fh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: close coalesces rewrites."""
    uploader = work.vfs._engine.uploader
    take = uploader.take
    waited = work.vfs._engine.seal(work.vfs._files.handle(fh).inode)
    assert waited is not None
    synced = threading.Thread(target=uploader.commit, args=[waited])

    def meets(taken: Transaction) -> bool:
        monkeypatch.undo()
        answer = take(taken)
        synced.start()
        synced.join(0.3)
        return answer

    other = work.vfs.open("file", 2).fh
    work.vfs.write(other, SECOND, 0)
    monkeypatch.setattr(uploader, "take", meets)
    work.vfs.flush(other)
    work.vfs.release(other)
    synced.join(10)
    settled(work)
    assert visible(server) == {"file": SECOND}
    assert work.read("file") == SECOND

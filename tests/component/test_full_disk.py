"""The disk of the state directory refuses a journal write: the caller is told, and what the file holds is not lost."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server
from jobfs.errors import FsError
from jobfs.writeback.records import Record, Save, State

OLD, USERS, SECOND = b"the old content", b"what the user wrote", b"what comes after"


@contextmanager
def full(work: Workspace, wanted: Callable[[Save], bool]) -> Iterator[None]:
    """The disk has no room for the next journal write that is about such a save."""
    journal = work.vfs._state.journal
    refused: list[Record] = []

    def write(*records: Record, gone: Iterable[Record] = ()) -> None:
        gone = list(gone)
        if not refused and (
            about := [record for record in (*records, *gone) if isinstance(record, Save) and wanted(record)]
        ):
            refused.extend(about)
            raise FsError(errno.ENOSPC)
        real(*records, gone=gone)

    with pytest.MonkeyPatch.context() as patch:
        real = journal.write
        patch.setattr(journal, "write", write)
        yield
    assert refused, "the disk was asked"


@pytest.mark.parametrize("new", [False, True], ids=["changed", "new"])
def test_a_file_whose_unlink_was_refused_goes_on_being_saved(
    server: Server, start: Callable[..., Workspace], new: bool
) -> None:
    """semantics 4, Nothing is forgotten."""
    server.store.seed({} if new else {"file": OLD}, age=60)
    work = start(write_back_delay=30)
    work.write("file", USERS)
    with full(work, lambda save: new or save.state is State.CANCELLED):
        assert errno_from(work.vfs.unlink, "file") == errno.ENOSPC
    assert work.read("file") == USERS
    settled(work)
    assert visible(server) == {"file": USERS}


def test_a_save_that_was_done_when_the_disk_was_full_is_known_afterwards(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """save-protocol, `promoted`: the next save of the file is based on it."""
    server.store.seed({"file": OLD}, age=60)
    work = start()
    assert work.read("file") == OLD
    fh = work.opened("file")
    work.vfs.write(fh, USERS, 0)
    with full(work, lambda save: save.state is State.PROMOTED):
        assert errno_from(work.vfs.fsync, fh) == errno.ENOSPC
    work.vfs.release(fh)
    settled(work)
    assert visible(server) == {"file": USERS}
    work.write("file", SECOND)
    settled(work)
    assert visible(server) == {"file": SECOND}


def test_bytes_that_could_not_be_recorded_at_close_are_sent_with_those_before(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4: the upload starts in the background."""
    work = start(write_back_delay=0.3)
    work.write("file", OLD)
    fh = work.opened("file")
    work.vfs.write(fh, USERS, 0)
    with full(work, lambda save: True):
        assert errno_from(work.vfs.flush, fh) == errno.ENOSPC
    eventually(lambda: visible(server) == {"file": USERS})
    work.vfs.release(fh)
    settled(work)
    assert visible(server) == {"file": USERS}

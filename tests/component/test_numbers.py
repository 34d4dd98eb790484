"""Two files never count as one: a conflict copy and its file, or a file that the job has renamed while it was written to."""

from __future__ import annotations

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server

JOBS, MINE, UNSENT = b"of the job", b"mine", b"not sent yet"


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    """`file` was saved once, then by the job and here at the same time; the bytes written last are not sent yet."""
    server.store.seed({"file": "old"}, age=60)
    # The job's version is not seen before the second save, however long a busy machine takes.
    work = start(write_back_delay=60, ttl=60)
    work.write("file", b"saved once", fsync=True)
    server.store.write("file", JOBS)
    work.write("file", MINE, fsync=True)
    wait_until_settled(work)
    work.vfs.refresh()
    work.write("file", UNSENT)
    return work


def test_a_conflict_copy_has_an_inode_number_of_its_own(work: Workspace) -> None:
    """vfs/semantics.md 1 and 4: `diff` takes two names of one inode number for one file, and would show no difference."""
    (copy,) = [name for name in work.names() if "conflict" in name]
    assert work.vfs.getattr(copy).ino != work.vfs.getattr("file").ino
    assert (work.read(copy), work.read("file")) == (JOBS, UNSENT)
    before = work.vfs.getattr(copy).ino
    work.drain()
    assert work.vfs.getattr(copy).ino == before
    work.remount()
    assert work.vfs.getattr(copy).ino == before


@pytest.mark.parametrize("change", ["read", "write", "unlink", "rename"])
def test_a_file_renamed_by_the_job_during_a_write_is_a_separate_file(
    server: Server, start: Start, change: str
) -> None:
    """vfs/semantics.md 4: the save makes the file again at its name; the item that the job has moved is left as it is."""
    server.store.seed({"file": "old"}, age=60)
    work = start(write_back_delay=60)
    assert work.read("file") == b"old"
    work.write("file", UNSENT)
    server.store.move("file", "moved")
    work.vfs.refresh()
    assert work.vfs.getattr("moved").ino != work.vfs.getattr("file").ino
    if change == "write":
        work.write("moved", MINE)
    elif change == "unlink":
        work.vfs.unlink("moved")
    elif change == "rename":
        work.vfs.rename("moved", "again")
    assert work.read("file") == UNSENT
    work.drain()
    wait_until_settled(work)
    others = {"read": {"moved": b"old"}, "write": {"moved": MINE}, "unlink": {}, "rename": {"again": b"old"}}
    eventually(lambda: visible(server) == {"file": UNSENT, **others[change]}, lambda: str(visible(server)))
    assert {name: work.read(name) for name in work.names()} == visible(server)

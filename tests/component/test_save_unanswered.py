"""The job writes to an item that an unanswered request has brought to its name: the job's bytes are seen, not deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.nodes import Permission

OLD, USERS = b"the old content", b"what a user wrote"
#: As long as the user's: only its bytes tell that it is another.
JOBS = b"what a job  wrote"
TARGET = "dir/file.txt"


def job_writes(server: Server, path: str = TARGET) -> Callable[[], None]:
    def act() -> None:
        server.store.write(path, JOBS)

    return act


@pytest.mark.parametrize(
    ("field", "value"), [("path", '"elsewhere"'), ("size", "3"), ("type", '"directory"')]
)
@pytest.mark.parametrize(("on", "skip"), [("create", 0), ("update", 0), ("update", 1)])
def test_a_step_with_an_odd_answer_counts_by_what_a_look_shows(
    server: Server, mortal: Callable[..., Mortal], on: str, skip: int, field: str, value: str
) -> None:
    """save/protocol.md, The steps, promote: any other path in the answer is as a lost answer: get H."""
    server.store.seed({TARGET: OLD}, age=60)
    work = mortal()
    assert work.read(TARGET) == OLD
    server.faults.fail_next("odd_item", on=on, skip=skip, field=field, value=value)
    work.write(TARGET, USERS, fsync=True)
    work.settle()
    assert visible(server) == {"dir": None, TARGET: USERS}
    assert work.read(TARGET) == USERS


@pytest.mark.parametrize("change", ["rename", "rename over", "chmod"])
def test_bytes_that_the_job_writes_after_an_unanswered_change_are_shown(
    server: Server, mortal: Callable[..., Mortal], change: str
) -> None:
    """save/protocol.md R2: for changes that are no saves, too."""
    server.store.seed({"dir/draft": USERS} | ({TARGET: OLD} if change == "rename over" else {}), age=60)
    path = "dir/draft" if change == "chmod" else TARGET
    work = mortal(At("failed update", 1, job_writes(server, path)))
    assert work.read("dir/draft") == USERS
    server.faults.fail_next("drop_after", on="update", skip=int(change == "rename over"))
    if change == "chmod":
        work.work(lambda: work.vfs.chmod(path, 0o444))
        assert server.store.item_at(path).permission == Permission.READ_ONLY
    else:
        work.work(lambda: work.vfs.rename("dir/draft", path))
        work.settle()
    assert server.store.read(path) == JOBS
    eventually(lambda: work.read(path) == JOBS, lambda: f"the mount shows {work.read(path)!r}")


def test_a_directory_whose_mkdir_was_killed_keeps_the_files_that_the_job_put_there(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """save/protocol.md R12: no delete is sent to a directory that the job can reach by its name."""
    server.store.seed({"dir": None})
    first = mortal(At("after update"))
    first.work(lambda: first.mkdir("dir/made"))
    first.end()
    assert first.boundaries.dead
    server.store.write("dir/made/file", JOBS)
    again = mortal()
    again.settle()
    assert server.store.read("dir/made/file") == JOBS
    assert again.read("dir/made/file") == JOBS

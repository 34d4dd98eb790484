"""The job writes to an item that an unanswered request has brought to its name: the job's bytes are seen, not deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.interferences import Scene, named
from tests.support.serverside import contents
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.nodes import Permission

OLD, USERS = b"the old content", b"what a user wrote"
#: As long as the user's: only its bytes tell that it is another.
JOBS = b"what a job  wrote"
TARGET = "dir/file.txt"


def job_writes(server: Server, path: str = TARGET) -> Callable[[], object]:
    return partial(named("job", "writes").act, Scene(path, server.store, lambda before: JOBS))


@pytest.mark.parametrize("change", ["rename", "rename over", "chmod"])
def test_bytes_the_job_writes_after_an_unanswered_change_are_shown(
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


def replace_all(work: Mortal, path: str, content: bytes) -> None:
    with work.opening(path, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, content, 0)
        work.vfs.fsync(fh)


@pytest.mark.parametrize("moves", ["no", "item"])
@pytest.mark.parametrize("sizes", ["present", "omitted"])
def test_the_next_save_keeps_the_jobs_write_after_an_unanswered_save(
    server: Server, mortal: Callable[..., Mortal], monkeypatch: pytest.MonkeyPatch, moves: str, sizes: str
) -> None:
    """save/protocol.md R2: the look after the lost answer has shown the `updatedAt` of what the job wrote."""
    server.set(move_touches=moves, sizes=sizes)
    server.store.seed({TARGET: OLD}, age=60)
    work = mortal(At("failed update", 1, job_writes(server)))
    assert work.read(TARGET) == OLD
    server.faults.fail_next("drop_after", on="update", skip=1)
    work.work(lambda: replace_all(work, TARGET, USERS))
    work.settle()
    assert server.store.read(TARGET) == JOBS
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", -60.0)  # some seconds later
    replace_all(work, TARGET, b"next")
    work.settle()
    assert contents(server) == sorted([b"next", JOBS])


@pytest.mark.parametrize("over", [True, False], ids=["over a file", "to a free name"])
@pytest.mark.parametrize("moves", ["no", "item"])
def test_a_save_keeps_the_jobs_write_after_an_unanswered_rename(
    server: Server, mortal: Callable[..., Mortal], moves: str, over: bool
) -> None:
    """vfs/semantics.md 4.46: the look after the lost answer is no read. Editors sync a new file and rename it so."""
    server.set(move_touches=moves)
    server.store.seed({TARGET: OLD} if over else {"dir": None}, age=60)
    work = mortal(At("failed update", 1, job_writes(server)))
    with work.closing(work.vfs.create("dir/new", 0o644, os.O_WRONLY, CALLER).fh) as fh:
        work.vfs.write(fh, USERS, 0)
        work.vfs.fsync(fh)
    server.faults.fail_next("drop_after", on="update", skip=int(over))
    work.work(lambda: work.vfs.rename("dir/new", TARGET, CALLER.pid))
    work.settle()
    assert server.store.read(TARGET) == JOBS
    replace_all(work, TARGET, b"next")
    work.settle()
    assert contents(server) == sorted([b"next", JOBS])


def test_a_directory_of_a_killed_mkdir_keeps_the_jobs_files(
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

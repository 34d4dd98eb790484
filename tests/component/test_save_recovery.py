"""After a change that was not answered, or whose mount was killed: what the job, a program or the next mount does then is kept.

The job writes to an item that the request has brought to its name: its bytes are seen, not deleted. The next mount continues
what the last one has begun, beside what its own programs do (save/protocol.md, Recovery).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.interferences import Scene, named
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.nodes import Permission

OLD, USERS, NEXT = b"the old content", b"what a user wrote", b"next"
#: As long as the user's: only its bytes tell that it is another.
JOBS = b"what a job  wrote"
UNSENT, DRAFT = b"never sent", b"what is renamed over it"
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


def replace_all(work: Mortal, content: bytes) -> None:
    with work.opening(TARGET, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, content, 0)
        work.vfs.fsync(fh)


def check_next_save_keeps_both(server: Server, work: Mortal) -> None:
    work.settle()
    assert server.store.read(TARGET) == JOBS
    replace_all(work, NEXT)
    work.settle()
    assert contents(server) == sorted([NEXT, JOBS])


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
    work.work(lambda: replace_all(work, USERS))
    work.settle()
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", -60.0)  # some seconds later
    check_next_save_keeps_both(server, work)


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
    check_next_save_keeps_both(server, work)


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


@pytest.mark.parametrize(("then", "kept"), [("nothing", [DRAFT]), ("saves", [DRAFT, NEXT]), ("unlinks", [])])
def test_a_resumed_rename_over_an_unsent_file_drops_only_the_unsent_bytes(
    server: Server, mortal: Callable[..., Mortal], then: str, kept: list[bytes]
) -> None:
    """vfs/semantics.md 4.27: bytes acknowledged at a name are kept, though a rename that was killed takes the name only now."""
    server.store.seed({"file": OLD, "draft": DRAFT}, age=60)
    first = mortal(At("before update", 2), write_back_delay=30.0)
    assert first.read("file") == OLD
    first.write("file", UNSENT)
    first.work(lambda: first.vfs.rename("draft", "file"))
    first.end()
    server.faults.set_rate("unavailable", 1.0)
    work = mortal()
    assert work.read("file") == UNSENT
    if then == "saves":
        work.write("file", NEXT)
    server.faults.clear()
    if then == "unlinks":
        work.vfs.unlink("file")
    work.settle()
    assert contents(server) == sorted(kept)
    assert visible(server).get("file") == {"nothing": DRAFT, "saves": NEXT}.get(then)
    work.state.store.sync()
    assert [*work.state.bytes.directory.iterdir()] == []

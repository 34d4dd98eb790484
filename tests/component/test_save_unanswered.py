"""The job writes to an item that an unanswered request has brought to its name: the job's bytes are seen, not deleted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.nodes import Permission

OLD, USERS, SECOND = b"the old content", b"what a user wrote", b"what another did."
#: As long as the user's: only its bytes tell that it is another.
JOBS = b"what a job  wrote"
TARGET = "dir/file.txt"


def job_writes(server: Server, path: str = TARGET) -> Callable[[], None]:
    def act() -> None:
        server.store.write(path, JOBS)

    return act


@pytest.mark.parametrize("over", ["save", "rename"])
@pytest.mark.parametrize("seen", ["unseen", "seen", "seen later"])
@pytest.mark.parametrize("first", ["saved", "moved"])
def test_an_item_that_a_late_request_moves_back_is_kept_when_its_old_name_is_written(
    server: Server, mortal: Callable[..., Mortal], first: str, seen: str, over: str
) -> None:
    """save/protocol.md, What the API does not allow: a name may flip; no content is lost, whether it was seen there or not."""
    server.store.seed(
        {"dir": None, "dir/new": SECOND} | ({"dir/file": USERS} if first == "moved" else {}), age=60
    )
    work = mortal(request_lifetime=2.0, ttl=60.0 if seen == "unseen" else 0.1)
    assert work.read("dir/new") == SECOND
    server.faults.next("drop", on="update")
    if first == "saved":
        work.write(TARGET, USERS, fsync=True)
    else:
        work.vfs.rename("dir/file", TARGET)
    work.vfs.rename(TARGET, "dir/renamed")
    item_id = server.store.item("dir/renamed").id
    server.store.move("dir/renamed", TARGET)  # as the first request would do, carried out late
    if seen != "unseen":
        eventually(lambda: work.exists(TARGET) and work.read(TARGET) == USERS)
    if seen == "seen later":
        unsure_until = work.write_back.context.unsure_until(item_id)
        assert unsure_until
        eventually(lambda: time.monotonic() > unsure_until, "the request is over")
    if over == "save":
        work.write(TARGET, SECOND, fsync=True)
    else:
        work.vfs.rename("dir/new", TARGET)
    work.settle()
    assert server.store.read(TARGET) == SECOND
    assert USERS in contents(server), "what was acknowledged under its new name is nowhere"
    assert [name for name in visible(server) if ".conflict-" in name]


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
    server.faults.next("odd_item", on=on, skip=skip, field=field, value=value)
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
    server.faults.next("drop_after", on="update", skip=int(change == "rename over"))
    if change == "chmod":
        work.work(lambda: work.vfs.chmod(path, 0o444))
        assert server.store.item(path).permission == Permission.READ_ONLY
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


def test_an_item_moved_by_an_unanswered_rename_is_ours_after_its_directory_is_renamed(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """save/protocol.md R1: the name that this mount has given the item since is the one below the renamed directory."""
    server.store.seed({"dir/draft": OLD}, age=60)
    work = mortal()
    assert work.read("dir/draft") == OLD
    server.faults.next("drop_after", on="update")
    work.vfs.rename("dir/draft", "dir/note")
    work.vfs.rename("dir", "done")
    work.write("done/note", USERS, fsync=True)
    work.settle()
    assert visible(server) == {"done": None, "done/note": USERS}

"""An observation may be old when the request that it justifies is sent: what the job has done since is kept."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.files import errno_from
from tests.support.programs import PROGRAMS, Program, distinct, run_through
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, let_time_pass, wait_until_settled

from jobfs.emulator import Server
from jobfs.emulator.faults import Kind

OLD, NEW, JOBS = b"the old content", b"what the user wrote", b"the job's other"
#: Not fetched before it is needed.
LARGE = OLD * (1 << 17)
#: Seconds after which the observation of an item that a program names is too old (R8), and a bit.
NAMED = 1.1

WRITERS = distinct(each for each in PROGRAMS if each.writes)


class BeforeTurn(At):
    """Calls `act` while a request that an observation justifies waits for its connection."""

    turns = True


Working = Callable[..., Mortal]


@pytest.fixture
def working(server: Server, mortal: Callable[..., Mortal]) -> Working:
    """A mount in which a program has read `file`; turn `nth` comes when the job has acted, `wait` seconds after the look."""

    def start(job: Callable[[], object], nth: int = 1, wait: float = 0.0) -> Mortal:
        def act() -> None:
            old = time.monotonic() + max(wait, 4 * max(0.05, work.write_back.client.health.latency or 0.0))
            eventually(lambda: time.monotonic() > old, "the observation is old")
            job()

        server.store.seed({"file": OLD, "other": NEW, "dir": None}, age=60)
        work = mortal(BeforeTurn("before turn", nth, act), ttl=1.0)
        assert work.read("file") == OLD
        work.boundaries.arm()
        return work

    return start


# -- while the request waits for its connection


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_set_aside_that_waited_does_not_take_a_file_from_its_new_name(
    server: Server, working: Working, writer: Program
) -> None:
    """save/protocol.md R8: when the set-aside is sent, the observation is fresh."""
    work = working(partial(server.store.move, "file", "elsewhere"))
    run_through(work, writer, "file", NEW)
    wait_until_settled(work, {"file": OLD + NEW, "elsewhere": OLD, "other": NEW, "dir": None})
    assert work.boundaries.struck


@pytest.mark.parametrize(("call", "arguments", "nth", "error"), [
    ("unlink", ("file",), 1, 0),
    ("rename", ("file", "new"), 1, errno.ENOENT),
    ("rename", ("other", "file"), 2, errno.ENOENT),
    ("chmod", ("file", 0o444), 1, errno.ENOENT),
    ("rmdir", ("dir",), 1, errno.ENOENT),
], ids=["unlink", "rename", "rename over a file", "chmod", "rmdir"])  # fmt: skip
def test_an_item_that_the_job_renames_while_a_change_waits_is_left_alone(
    server: Server, working: Working, call: str, arguments: tuple[Any, ...], nth: int, error: int
) -> None:
    """save/protocol.md R8, R10, R12, vfs/semantics.md 4.32: what was at the path a second before the request is changed."""
    path = arguments[0]
    work = working(partial(server.store.move, path, "elsewhere"), nth, NAMED)
    tree = visible(server)
    assert errno_from(getattr(work.vfs, call), *arguments) == error
    tree["elsewhere"] = tree.pop(path)
    wait_until_settled(work, tree)
    assert work.boundaries.struck
    assert not work.exists(path)
    assert server.store.item_at("elsewhere").permission == "readWrite"


# -- between the look and the deletion that it justifies


def unlink_if_read(work: Workspace) -> None:
    item = work.write_back.namespace.lookup("file")
    assert item is not None
    work.vfs.unlink_if_version("file", item.version, sha256(LARGE).hexdigest())


@pytest.mark.parametrize("remove", [
    lambda work: work.vfs.rename("other", "file"), lambda work: work.vfs.unlink("file"), unlink_if_read,
], ids=["rename over", "unlink", "unlink of the version that was read"])  # fmt: skip
def test_bytes_the_job_writes_while_handles_fetch_theirs_are_kept(
    server: Server, mortal: Callable[..., Mortal], remove: Callable[[Workspace], object]
) -> None:
    """save/protocol.md R7: the look comes after open handles have fetched their bytes, right before the delete."""

    def job_writes() -> None:
        server.store.write(server.store.item_by_id(item.id).path, JOBS)

    item, _ = server.store.seed({"file": LARGE, "other": NEW}, age=60)
    work = mortal(At("before download", 1, job_writes), ttl=60)
    with work.opening("file", os.O_RDONLY):
        work.boundaries.arm()
        remove(work)
        wait_until_settled(work)
    assert work.boundaries.struck
    assert contents(server) == sorted([JOBS, NEW])


# -- between a read and a rename or chmod, by a request that an old observation justifies


def job_writes_a_while_ago(server: Server, how: str = "write") -> None:
    """Let the job write to the file, and wait until earlier observations are older than a round trip."""
    seen = time.monotonic()
    getattr(server.store, how)("file", JOBS)
    eventually(lambda: time.monotonic() > seen + 0.1, "the observation is older than a round trip")


#: The calls of programs by which a file gets its last name, or keeps it; by the process that has read it, or by another.
CHANGES: dict[str, list[tuple[Any, ...]]] = {
    "a rename": [("rename", "file", "new")],
    "a rename over a file": [("rename", "file", "other")],
    "a chmod": [("chmod", "file", 0o444), ("chmod", "file", 0o644)],
    "a rename by the reader": [("rename", "file", "new", CALLER.pid)],
    "a rename over a file by the reader": [("rename", "file", "other", CALLER.pid)],
}


def change(work: Workspace, how: str) -> str:
    """Make the calls, and return the name that the file has then."""
    for call, *arguments in CHANGES[how]:
        getattr(work.vfs, call)(*arguments)
    return str(arguments[1]) if call == "rename" else "file"


def replace_unread(work: Workspace, name: str) -> None:
    with work.opening(name, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    wait_until_settled(work)


@pytest.mark.parametrize("moves", ["no", "item"])
@pytest.mark.parametrize(
    ("how", "job"),
    [(how, job) for how in CHANGES for job in ("write", "replace") if job == "write" or "reader" in how],
)
def test_the_jobs_write_between_a_read_and_a_change_is_kept(
    server: Server, start: Start, how: str, job: str, moves: str
) -> None:
    """vfs/semantics.md 4.42, 4.46: to rename a file is not to read what it has by then."""
    server.set(move_touches=moves)
    server.store.seed({"file": OLD, "other": b"other"}, age=60)
    work = start(ttl=0.02 if "reader" in how else 30.0)
    work.names()
    assert work.read("file") == OLD
    job_writes_a_while_ago(server, job)
    replace_unread(work, change(work, how))
    assert JOBS in visible(server).values()


@pytest.mark.parametrize("how", [how for how in CHANGES if "reader" not in how])
def test_the_jobs_write_between_a_save_and_a_change_is_kept(server: Server, start: Start, how: str) -> None:
    """vfs/semantics.md 4.44: no program has read the file, but only the version that this mount has placed needs no reader."""
    server.set(move_touches="no")
    server.store.seed({"other": b"other"}, age=60)
    work = start(ttl=30.0)
    work.write("file", OLD, fsync=True)
    work.names()
    job_writes_a_while_ago(server)
    name = change(work, how)
    let_time_pass(work, 60)
    replace_unread(work, name)
    assert JOBS in visible(server).values()


@pytest.mark.parametrize("fault", ["throttled", "unavailable"])
def test_the_jobs_write_before_a_rename_was_retried_is_kept(
    server: Server, mortal: Callable[..., Mortal], fault: Kind
) -> None:
    """vfs/semantics.md 5.10, save/protocol.md R8: the look before another attempt shows what the job has written."""
    server.store.seed({"file": OLD}, age=60)
    work = mortal(At("failed update", 1, lambda: server.store.write("file", JOBS)), ttl=1.0)
    assert work.read("file") == OLD
    server.faults.fail_next(fault, on="update")
    work.boundaries.arm()
    work.vfs.rename("file", "new")
    replace_unread(work, "new")
    assert work.boundaries.struck
    assert JOBS in visible(server).values()

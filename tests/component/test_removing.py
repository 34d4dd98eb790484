"""Deleting when answers are lost or late: nothing goes that the user did not mean, nothing stays hidden for ever."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Boundaries, Mortal
from tests.support.files import errno_from
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

OLD, JOBS = b"the old content", b"the job's other"


@pytest.mark.parametrize(
    ("fault", "what", "request_"), [("throttled", "file", "delete"), ("drop", "dir", "update")]
)
def test_an_item_that_the_job_renames_during_its_removal_is_kept(
    server: Server, mortal: Callable[..., Mortal], fault: str, what: str, request_: str
) -> None:
    """vfs/semantics.md 4: unlink deletes the id that stood at that path at most 1 s ago; R12."""
    server.store.seed({"dir": None, "file": OLD * 1000}, age=60)
    server.set(bandwidth=50_000)
    work = mortal(At(f"failed {request_}", 1, lambda: server.store.move(what, "kept")))
    assert work.names() == ["dir", "file"]
    with work.opening("file", os.O_RDONLY):
        server.faults.fail_next(fault, on=request_)  # type: ignore[arg-type]
        work.boundaries.arm()
        errno_from(work.vfs.unlink if what == "file" else work.vfs.rmdir, what)
        server.set(bandwidth=0)
    work.settle()
    assert "kept" in visible(server)
    eventually(lambda: "kept" in work.names())


def test_a_file_the_job_puts_into_a_directory_before_a_late_rmdir_is_kept(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """vfs/semantics.md 4.30, save/protocol.md R12, R7: it is listed after it was seen to be out of the job's reach."""
    server.store.seed({"dir": None}, age=60)
    work = mortal(Boundaries(), timeout=0.5, request_lifetime=2.0, ttl=60.0)
    assert work.names("dir") == []
    server.faults.set_rate("late", 1.0, on="update", delay=1.0)
    server.faults.set_rate("drop", 1.0, on="get")
    assert errno_from(work.vfs.rmdir, "dir")
    server.faults.clear()
    listed = server.log.count("list")
    eventually(lambda: server.log.count("list") > listed or not work.state.changes)
    server.store.seed({"dir/new": JOBS})
    eventually(lambda: hidden(server), "the late request is carried out")
    eventually(lambda: not work.state.changes)
    assert list(visible(server).values()).count(JOBS) == 1
    assert hidden(server) == []


def test_a_tree_is_removed_however_late_its_content_is_deleted(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """save/protocol.md R12: an item of ours that is gone, or on its way out, is no content."""
    paths = [f"w/{a}{end}" for a in range(16) for end in ("", "/b", "/b/c")]
    work = mortal(Boundaries())
    server.faults.set_rate("slow", 0.5, on="delete", delay=0.05)
    server.faults.set_rate("drop_after", 0.1, on="delete")
    for path in ["w", *paths]:
        work.mkdir(path)
    for path in [*sorted(paths, reverse=True), "w"]:
        work.vfs.rmdir(path)
        assert not work.exists(path)
    assert work.names() == []
    eventually(lambda: not work.state.changes, work.unrest)
    assert (visible(server), hidden(server)) == ({}, [])

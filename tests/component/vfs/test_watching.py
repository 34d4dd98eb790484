"""Changes of the job that the Vfs reports, and own changes that it leaves out."""

from __future__ import annotations

import re

from tests.support.workspaces import Workspace

from jobfs.emulator import Server
from jobfs.state.records import Verb


def reported_changes(work: Workspace) -> list[str]:
    """Return the changes reported after a new listing; conflict copies without their times."""
    work.vfs.refresh()
    return [re.sub(r"-\d+T\d+Z", "", f"{one.kind} {one.path}") for one in work.vfs.take_differences()]


def test_a_watch_shows_changes_of_the_job_and_not_of_this_mount(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 7.2: not at a path with unsent bytes, nor where a change of ours decides what is shown."""
    server.store.seed({f"dir/{name}": name for name in ("theirs", "dirty", "going", "saved")}, age=60)
    assert reported_changes(work) == []
    work.write("dir/dirty", b"ours")
    work.write("dir/new", b"ours")
    change = work.vfs._state.plan_change(Verb.REMOVE, "dir/going", shows={"dir/going": None})
    for name in ("theirs", "dirty", "new"):
        server.store.write(f"dir/{name}", "the job's")
    server.store.delete("dir/going")
    assert reported_changes(work) == ["changed dir/theirs"]
    work.vfs._state.end_change(change)
    work.drain()
    kept = ["created dir/dirty.conflict", "created dir/new.conflict"]
    assert sorted(reported_changes(work)) == kept, "conflict copies, which no program has made"
    assert work.read("dir/dirty") == b"ours"
    work.write("dir/saved", b"ours")
    work.mkdir("dir/made")
    work.vfs.rename("dir/theirs", "dir/made/renamed")
    work.vfs.unlink("dir/new")
    work.drain()
    assert reported_changes(work) == []

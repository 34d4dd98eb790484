"""A save replaces what this mount has shown: through one handle, and by programs that close in between (README)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.serverside import contents
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server

READ, JOBS, OURS = b"what was read", b"the job's change", b"the user's own"


@pytest.fixture
def work(server: Server, start: Callable[..., Workspace]) -> Workspace:
    """A workspace that looks again only when it is told to; its file has been read."""
    server.store.seed({"file": READ}, age=60)
    work = start(ttl=600)
    assert work.read("file") == READ
    return work


def by_truncating(work: Workspace) -> None:
    work.write("file", OURS)


def by_renaming_over(work: Workspace) -> None:
    work.write("new", OURS)
    work.vfs.rename("new", "file")


@pytest.mark.parametrize("save", [by_truncating, by_renaming_over])
@pytest.mark.parametrize("shown", [False, True])
def test_a_program_that_has_closed_the_file_replaces_what_is_shown_when_it_comes_back(
    server: Server, work: Workspace, save: Callable[[Workspace], None], shown: bool
) -> None:
    """Nobody can tell that it was not read again; editors compare the time of change, which is another one."""
    before = work.vfs.getattr("file").mtime_ns
    server.store.write("file", JOBS)
    if shown:
        work.vfs.refresh()
        assert work.vfs.getattr("file").mtime_ns != before
    save(work)
    settled(work)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([OURS] if shown else [OURS, JOBS])

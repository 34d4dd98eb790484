"""Files in a directory that no item stands for, on a server that moves nothing into one: what needs the directory makes it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from tests.support.serverside import visible
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server


@pytest.fixture
def work(server: Server, start: Callable[..., Workspace]) -> Workspace:
    server.store.seed({"dir/file": "old", "new": "another"}, age=60, directories=False)
    return start(write_back_delay=0)


def test_a_file_is_renamed_over_one_in_it(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 1: an operation that needs the real item creates it."""
    work.vfs.rename("new", "dir/file")
    settled(work)
    assert visible(server) == {"dir": None, "dir/file": b"another"}


def test_a_file_in_it_is_unlinked_while_open(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 1: an operation that needs the real item creates it."""
    with work.opening("dir/file", os.O_RDONLY) as fh:
        work.vfs.hide("dir/file", f"dir/.fuse_hidden{1:016x}")
        assert work.vfs.read(fh, 100, 0) == b"old"
    assert not [name for name in work.names("dir") if "fuse" not in name]

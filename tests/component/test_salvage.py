"""Killed at any boundary of a save, what was closed is on the server or among the copies (vfs/semantics.md 6.20)."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import visible
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.state.salvage import UnsentEntry, read_unsent


def content(entry: UnsentEntry) -> bytes | None:
    return None if entry.source is None else entry.source.read_bytes()[: entry.size]


@pytest.mark.parametrize("seeded", [{}, {"file": "old"}])
def test_closed_bytes_are_sent_or_copied_after_a_kill_at_any_boundary(
    server: Server, tmp_path: Path, seeded: dict[str, str]
) -> None:
    """vfs/semantics.md 6.19, 6.20: whole, and under their name."""
    copies = set[bool]()
    for at in count(1):
        server.reset()
        server.store.seed(seeded, age=60)
        work = Mortal(server, tmp_path / f"{at}", Boundaries(at))
        work.start()
        saved = work.work(partial(write, work))
        closed = saved or "file" in {file.path for file in work.state.backlog().files}
        place = work._slot.path
        work.end()
        left = {entry.path: content(entry) for entry in read_unsent(place)}
        there = {"file": b"new content"}
        if closed:
            assert there.items() <= left.items() or there.items() <= visible(server).items(), (at, left)
        assert set(left.values()) <= {b"new content"}, (at, left)
        copies.add("file" in left)
        if not work.boundaries.struck:
            break
    assert (at > 5, copies) == (True, {True, False}), "some of the kills came before the save, and some after"


def write(work: Mortal) -> bool:
    """Save the file, and return True once it is closed."""
    work.write("file", b"new content")
    return True


def test_only_directories_that_the_server_lacks_are_copied(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 6.19."""
    work = Mortal(server, tmp_path / "home", Boundaries())
    work.start()
    work.mkdir("there")
    server.faults.set_rate("drop", 1.0)
    work.vfs.mkdir("there/new", 0o750, CALLER)
    work.kill()
    server.faults.clear()
    assert read_unsent(work._slot.path) == [UnsentEntry("there/new", mode=0o750)]

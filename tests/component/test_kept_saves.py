"""What is kept to be copied (`recover --save`), restored and merged: after a kill at any boundary of a save, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.serverside import visible
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.nodes import Kind
from jobfs.state.copies import BASES, SAVES, read_copy
from jobfs.state.salvage import read_unsent

OLD, FIRST, SECOND = b"of the job", b"the first save", b"the second save"


def kept_copy(work: Workspace, path: str, kind: str = SAVES) -> bytes | None:
    return read_copy(work.state_directory / kind, path)


def unsent(work: Mortal) -> dict[str, bytes]:
    """Return what `recover --save` would copy of an ended mount, by path."""
    entries = read_unsent(work.state_directory)
    return {entry.path: entry.source.read_bytes()[: entry.size] for entry in entries if entry.source}


@contextmanager
def killed_at(server: Server, home: Path, at: int) -> Iterator[Mortal]:
    """Start a mount with a `file` of the job, which dies at this boundary of `work`."""
    server.reset()
    server.store.seed({"file": OLD}, age=60)
    with Mortal(server, home, Boundaries(at)) as work:
        yield work


@pytest.mark.parametrize("path", ["file", "new"])
def test_a_save_killed_at_any_boundary_can_be_copied_and_restored(
    server: Server, tmp_path: Path, path: str
) -> None:
    """vfs/semantics.md 6.19, 6.20: closed bytes are on the server or copied; 4.53: the last finished save is kept."""
    copied = set[bool]()
    for at in count(1):
        with killed_at(server, tmp_path / f"{at}", at) as work:
            work.write("file", FIRST)
            work.settle()
            # Returns the path once the file is closed and sent, None if the mount has died.
            work.work(lambda work=work: work.write(path, SECOND))  # type: ignore[misc]
            is_closed = path in {file.path for file in work.state.backlog().files}
        where, copies = work.boundaries.last, unsent(work)
        assert {*copies.values()} <= {SECOND}, where
        assert SECOND in (copies.get(path), visible(server).get(path)) or not is_closed, where
        copied.add(path in copies)
        with work.next() as again:
            again.settle()
            assert kept_copy(again, path) == visible(server).get(path), where
        if not work.boundaries.struck:
            break
    assert (at > 5, copied) == (True, {True, False}), (
        "some kills came before the server had the save, and some after"
    )


def test_a_conflict_copy_has_its_base_after_a_kill_at_any_boundary(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4.61: while it is set aside, while it gets its name, and after that."""

    def save(work: Mortal) -> None:
        with work.opening("file") as fh:
            work.vfs.write(fh, b"mine", 0)
            server.store.write("file", b"the job's")
            work.vfs.fsync(fh)

    for at in count(1):
        with killed_at(server, tmp_path / f"{at}", at) as work:
            work.read("file")
            work.work(lambda work=work: save(work))  # type: ignore[misc]
        with work.next() as again:
            again.settle()
            copies = [path for path in visible(server) if ".conflict-" in path]
            bases = {path: kept_copy(again, path, BASES) for path in copies}
            assert bases == dict.fromkeys(copies, OLD), work.boundaries.last
        if not work.boundaries.struck:
            break
    assert at > 10
    assert copies


def test_keeping_a_save_costs_no_request(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.52: neither in place, nor by a rename over, nor of a new file."""
    counts = []
    for keep_saves in (0, 1000):
        server.reset()
        server.store.seed({"file": OLD}, age=60)
        work = start(keep_saves=keep_saves, write_back_delay=30.0, ttl=60.0)
        # What a mount asks once in its life.
        work.write_back.context.server.learn(rejects=dict.fromkeys(Kind, False), moves_refused=False)
        work.names()
        for content in (FIRST, SECOND):
            work.write("file", content, fsync=True)
            work.write("new", content, fsync=True)
            work.write("temporary", content)
            work.vfs.rename("temporary", "file")
        wait_until_settled(work, {"file": SECOND, "new": SECOND})
        operations = Counter(entry.operation for entry in server.log.entries())
        # Looks are repeated on a machine that is slow (save/protocol.md R8).
        looks = ("list", "find", "get")
        counts.append({name: number for name, number in operations.items() if name not in looks})
        assert kept_copy(work, "file") == (SECOND if keep_saves else None)
        work.stop()
    assert counts[0] == counts[1]


def test_a_refused_save_leaves_the_save_kept_before_it(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.52: the last save that the server got."""
    work = start(write_back_delay=0)
    work.write("file", FIRST, fsync=True)
    server.faults.set_rate("error", 1.0, on="create", status=413)
    work.write("file", SECOND)
    for _ in range(2):
        assert (kept_copy(work, "file"), work.read("file")) == (FIRST, SECOND)
        work.remount()


def test_a_kept_save_follows_a_rename_and_goes_with_its_file(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.53: of the file or its directory; `rm`, and a rename of the job's item over it, delete the save."""
    server.store.seed({"dir/other": OLD, "other": OLD}, age=60)
    work = start(write_back_delay=0)
    for path in ("dir/file", "removed", "replaced"):
        work.write(path, FIRST, fsync=True)
    work.vfs.rename("dir/file", "dir/mine")
    work.vfs.rename("dir", "to")
    work.vfs.unlink("removed")
    work.vfs.rename("other", "replaced")
    gone = ("dir/mine", "to/file", "removed", "replaced")
    for _ in range(2):
        assert kept_copy(work, "to/mine") == FIRST
        assert [path for path in gone if kept_copy(work, path) is not None] == []
        work.remount()

"""Two mounts of one job, as two machines have it: neither touches the other's work, both contents are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files import saved
from tests.support.mounts import MountedJob
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.names import parse_hidden


def mount_id(mounted: MountedJob) -> str:
    """The id in the hidden names of this mount."""
    return Path(mounted.status()["state_dir"]).name


def hidden_of(server: Server, mount: str) -> list[str]:
    """The hidden items of one mount."""
    found = [(path, parse_hidden(path.rpartition("/")[2])) for path in hidden(server)]
    return [path for path, parts in found if parts is not None and parts.mount == mount]


@pytest.mark.parametrize("operation", ["create", "update"])
def test_one_killed_in_the_middle_of_a_save_is_left_alone_by_the_other(
    server: Server, mount: Callable[..., MountedJob], operation: str
) -> None:
    """vfs/semantics.md 4: hidden items of another mount are left alone; the next mount of that state finishes its work."""
    server.store.seed({"note.txt": "as it was", "side.txt": "beside"}, age=60)
    one, other = mount(), mount()
    assert (one.path / "note.txt").read_bytes() == b"as it was"
    server.faults.next("hang_after", on=operation)
    (one.path / "note.txt").write_bytes(b"from the one")
    eventually(lambda: not server.faults.rules(), "the request that is never answered")
    one_id = mount_id(one)
    one.kill()
    left = hidden_of(server, one_id)
    for number in range(3):
        saved(other.path / "side.txt", b"from the other, %d" % number)
        saved(other.path / f"new{number}.txt", b"new")
    other.flush()
    eventually(lambda: os.listdir(other.path) and not hidden_of(server, mount_id(other)))
    assert hidden_of(server, one_id) == left
    one.mount()
    one.settled()
    expected: dict[str, bytes | None] = {f"new{number}.txt": b"new" for number in range(3)}
    assert visible(server) == {**expected, "note.txt": b"from the one", "side.txt": b"from the other, 2"}

"""Two mounts of one job, as two machines have it: neither touches the other's work, both contents are kept."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.files import saved
from tests.support.mounts import MountedJob
from tests.support.serverside import contents, doubled, hidden, visible
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


def saves(mounted: MountedJob, numbers: Iterator[int], end: threading.Event, kept: list[int]) -> None:
    """Saves one file again and again, until told to end or the mount dies; `kept`: what fsync returned for."""
    for number in numbers:
        try:
            saved(mounted.path / "shared.txt", f"{mounted.home.name} {number}".encode())
        except OSError:
            return
        kept.append(number)
        if end.is_set():
            return


def newest_of(server: Server, mounted: MountedJob) -> int:
    """The highest number that this mount saved, of all that the server still has."""
    marks = [content.decode().split() for content in contents(server) if b" " in content]
    return max((int(number) for name, number in marks if name == mounted.home.name), default=-1)


@pytest.mark.timeout(240, method="signal")
def test_one_is_killed_again_and_again_while_both_save_one_file(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """vfs/semantics.md 6: neither mount touches the other's work; what replaces the newest of one had seen it."""
    server.store.seed({"shared.txt": "none"}, age=60)
    one, other = mount(), mount()
    numbers, end = itertools.count(), threading.Event()
    kept_by_one: list[int] = []
    kept_by_other: list[int] = []
    steady = threading.Thread(target=saves, args=[other, itertools.count(), end, kept_by_other])
    steady.start()
    try:
        for _ in range(4):
            before = len(kept_by_one)
            worker = threading.Thread(target=saves, args=[one, numbers, threading.Event(), kept_by_one])
            worker.start()
            eventually(lambda before=before: len(kept_by_one) >= before + 3, timeout=40)  # type: ignore[misc]
            one.kill_only()
            worker.join()
            one.kill()
            one.mount()
    finally:
        end.set()
        steady.join()
    one.settled()
    other.settled()
    assert doubled(server) == []
    # The other saves last, and over what it has seen of the one.
    assert newest_of(server, other) >= kept_by_other[-1] or newest_of(server, one) >= kept_by_one[-1]
    for mounted in (one, other):
        eventually(lambda mounted=mounted: tree(mounted) == visible(server))  # type: ignore[misc]


def tree(mounted: MountedJob) -> dict[str, bytes]:
    """What a mount shows."""
    return {name: (mounted.path / name).read_bytes() for name in os.listdir(mounted.path)}

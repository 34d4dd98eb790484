"""The disk of the state directory is full: what is new is refused before anything has changed, what has happened is recorded.

The disk of the cache is full, and it is another one: files can be changed.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import At, Boundaries, Mortal
from tests.support.files import errno_from
from tests.support.hosts import Host
from tests.support.interferences import Scene, named
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace, wait_until_settled, workspace

from jobfs.emulator import Server
from jobfs.errors import FsError


def nothing(work: Workspace) -> None:
    pass


def unsent(work: Workspace) -> None:
    work.write("new", b"not sent")


def backup(work: Workspace) -> None:
    work.read("file")
    work.vfs.rename("file", "file~")


def edited(work: Workspace) -> None:
    work.write("file", b"edited")


def rename(old: str, new: str) -> Callable[[Workspace], object]:
    return lambda work: work.vfs.rename(old, new)


#: The files of the job.
JOBS: dict[str, bytes | None] = {
    "file": b"of the job", "other": b"another of the job", "of-the-job~": b"of such a name",
}  # fmt: skip

#: How files are prepared, and the operation on them; only this machine knows of all of these.
LOCAL: dict[str, tuple[Callable[[Workspace], object], Callable[[Workspace], object]]] = {
    "create": (nothing, lambda work: work.vfs.create("new~", 0o644, os.O_WRONLY, CALLER)),
    "write": (nothing, lambda work: work.write("scratch~", b"changed")),
    "mkdir": (nothing, lambda work: work.mkdir("newdir~")),
    "unlink": (nothing, lambda work: work.vfs.unlink("scratch~")),
    "unlink of a backup": (backup, lambda work: work.vfs.unlink("file~")),
    "rename": (nothing, rename("scratch~", "other~")),
    "rename over": (nothing, rename("scratch~", "second~")),
    "rename to a real name": (nothing, rename("scratch~", "real")),
    "rename over an item": (nothing, rename("scratch~", "file")),
    "rename over an edited item": (edited, rename("scratch~", "file")),
    "backup": (lambda work: work.read("file"), rename("file", "file~")),
    "backup over": (lambda work: work.read("file"), rename("file", "scratch~")),
    "backup over a backup": (backup, rename("other", "file~")),
    "rename over a backup": (backup, rename("scratch~", "file~")),
    "rename to the old name of a backup": (backup, rename("scratch~", "file")),
    "unsent to a scratch name": (unsent, rename("new", "new~")),
    "unsent over a scratch file": (unsent, rename("new", "scratch~")),
}


def check_between(work: Workspace, least: dict[str, bytes | None], where: str) -> None:
    """Wait until a mount shows these files, and beside them at most those of the job."""

    def looked() -> bool:
        # A rename that a killed mount had begun is finished in the background: between the listing and the read, too.
        with suppress(FsError):
            return least.items() <= work.tree().items() <= (JOBS | least).items()
        return False

    eventually(looked, lambda: f"{where}: {work.tree()}")


#: Options of such a mount.
LOCAL_NAMES: dict[str, Any] = {"write_back_delay": 60.0, "local_symlinks": True}


@contextmanager
def with_local_names(server: Server, home: Path, name: str, boundaries: Boundaries) -> Iterator[Mortal]:
    """A mount with the files that the operation `name` of LOCAL needs."""
    server.reset()
    server.store.seed(JOBS, age=60)
    work = Mortal(server, home, boundaries, **LOCAL_NAMES)
    work.start()
    try:
        work.write("scratch~", b"a scratch file")
        work.write("second~", b"another")
        work.mkdir("dir~")
        work.write("dir~/inner", b"in a directory")
        LOCAL[name][0](work)
        work.state.store.sync()
        yield work
    finally:
        boundaries.dead = True
        work.end()


@pytest.mark.parametrize("name", LOCAL)
def test_a_failed_operation_on_a_local_name_changes_nothing(
    server: Server, tmp_path: Path, name: str
) -> None:
    """vfs/semantics.md 4.14, 4.17: local names are journaled; one that could not be has not happened, nor after a remount."""
    refusals = 0
    for nth in count(1):
        scene = Scene("", server.store)
        full = At("write", nth, partial(named("machine", "fills the disk").act, scene))
        with with_local_names(server, tmp_path / f"{nth}", name, full) as work:
            before = work.tree()
            scene.host = Host(work)
            full.arm()
            failed = errno_from(LOCAL[name][1], work)
            full.disarm()
            after = work.tree()
            # Of a write it is the close that fails: the bytes are there.
            assert not failed or name == "write" or after == before, f"full before write {nth}"
            refusals += scene.host.refusals
        with work.next(**LOCAL_NAMES) as again:
            # Killed before its item has left the server, a file with a new scratch name is there under its old name too.
            check_between(again, after, f"full before write {nth}")
        if not full.struck:
            # An unlink makes room, and needs none.
            assert (failed, refusals > 0) == (0, not name.startswith("unlink"))
            break


@pytest.mark.parametrize("kind", ["changed", "new", "refused"])
def test_an_unsent_file_can_be_unlinked(server: Server, mortal: Callable[..., Mortal], kind: str) -> None:
    """vfs/semantics.md 4.11 and 4, Nothing is forgotten: an operation that makes room needs none."""
    server.store.seed({} if kind == "new" else {"file": b"old"}, age=60)
    work = mortal(write_back_delay=0 if kind == "refused" else 30)
    server.faults.set_rate("error", 1.0 if kind == "refused" else 0.0, on="create", status=413)
    work.write("file", b"what the user wrote")
    eventually(lambda: kind != "refused" or work.vfs.status()["failed"], "it is refused")
    Host(work).fill_disk()
    work.vfs.unlink("file")
    assert (work.names(), work.vfs.status()["failed"]) == ([], [])
    work.settle({})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    (path := tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "jobfs-test", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("ab", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


@pytest.mark.needs_root("only root can mount a disk of its own for this")
@pytest.mark.parametrize("operation", [
    lambda work: work.vfs.create("new", 0o644, os.O_WRONLY, CALLER), lambda work: work.mkdir("new~"), edited,
], ids=["create", "mkdir", "write"])  # fmt: skip
def test_the_cache_makes_room_for_something_new(
    server: Server, small_disk: Path, operation: Callable[[Workspace], object]
) -> None:
    """vfs/semantics.md 4.41, 4.56: before kept saves are deleted, and before anything is refused."""
    server.store.seed({"file": b"old", **{str(number): bytes(1 << 20) for number in range(10)}}, age=60)
    with workspace(server, small_disk, write_back_delay=30) as work:
        work.write("saved", b"saved", fsync=True)
        for number in range(10):
            work.read(str(number))
        fill(small_disk)
        operation(work)
        assert work.state.saves.paths() == ["saved"]


@pytest.mark.needs_root("only root can mount a disk of its own for this")
@pytest.mark.parametrize(
    "size", [0, 100, 2 << 20, (16 << 20) + 1], ids=["empty", "small", "fetched later", "large"]
)
def test_a_full_disk_of_the_cache_stops_no_change_of_a_file(
    server: Server, small_disk: Path, tmp_path: Path, size: int
) -> None:
    """vfs/semantics.md 3.12, 4.1, 4.33, 4.34: the bytes go to the disk of the state directory, which has room."""
    content = os.urandom(size)
    server.store.seed(dict.fromkeys(("edited", "appended", "renamed", "unlinked"), content), age=60)
    with workspace(server, tmp_path / "home", cache_dir=small_disk / "cache") as work:
        fill(small_disk)
        assert errno_from(work.read, "edited") == (errno.EIO if size > 16 << 20 else 0)
        work.write("edited", b"ours", flags=os.O_RDWR)
        work.write("appended", b"ours", flags=os.O_WRONLY | os.O_APPEND)
        work.vfs.rename("renamed", "renamed~")
        with work.opening("unlinked", os.O_RDWR) as fh:
            work.vfs.unlink("unlinked")
            work.vfs.write(fh, b"ours", size)
            assert work.vfs.read(fh, 10, size) == b"ours"
        assert work.read("renamed~") == content
        assert work.vfs.status()["cache"]["refused"] or not size
        wait_until_settled(work, {"edited": b"ours" + content[4:], "appended": content + b"ours"})

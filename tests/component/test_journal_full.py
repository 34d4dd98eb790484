"""The disk is full at any write of the journal: the caller is told, or it does not matter; nothing is lost or left hidden."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal, quick_finishing
from tests.support.files import errno_from
from tests.support.operations import ON_UNSENT, OPERATIONS, Operation, Promise
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server
from jobfs.errors import FsError
from jobfs.writeback import WriteBack
from jobfs.writeback.records import Record

FOR_GOOD = 10**6


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_finishing():
        yield


class Disk:
    """Refuses `times` writes of a journal from number `at` on; `at` 0: none."""

    def __init__(self, engine: WriteBack, at: int, times: int) -> None:
        self.at, self.times, self.writes = at, times, 0
        self._real = engine.journal.write
        engine.journal.write = self._write  # type: ignore[method-assign]

    def _write(self, *records: Record, gone: Iterable[Record] = ()) -> None:
        self.writes += 1
        if self.at and self.at <= self.writes < self.at + self.times:
            raise FsError(errno.ENOSPC)
        self._real(*records, gone=gone)

    def free(self) -> bool:
        """Takes everything from now on; whether it ever refused anything."""
        struck = bool(self.at) and self.writes >= self.at
        self.at = 0
        return struck


@contextmanager
def started(operation: Operation, server: Server, home: Path) -> Iterator[Mortal]:
    work = operation.start(server, home, Boundaries(), timeout=0.5)
    try:
        work.boundaries.arm()
        yield work
    finally:
        work.end()


def at_rest(work: Mortal) -> bool:
    return not errno_from(work.settle)


@pytest.mark.parametrize("operation", [*OPERATIONS, *ON_UNSENT], ids=lambda operation: operation.name)
@pytest.mark.parametrize("times", [1, 2, FOR_GOOD], ids=["once", "twice", "for good"])
def test_whichever_write_is_refused_it_ends_right_once_there_is_space(
    server: Server, tmp_path: Path, operation: Operation, times: int
) -> None:
    """semantics 4, Nothing is forgotten; 5: ENOSPC to the writer, what was acknowledged stays."""
    for at in count(1):
        promise = Promise()
        with started(operation, server, tmp_path / f"{at}") as work:
            disk = Disk(work.engine, at, times)
            failed = errno_from(operation.run, work, promise)
            struck = disk.free()
            work.vfs.retry(None)
            eventually(lambda work=work: at_rest(work), "it is at rest")  # type: ignore[misc]
            operation.check(work, promise, f"full at write {at}, errno {failed}")
        if not struck:
            break
    print(f"{operation.name}: {at - 1} writes of the journal refused")


@pytest.mark.parametrize(
    "operation",
    # libfuse's two halves of an unlink are told apart after the first: a crash before that is written brings the file back.
    [one for one in (*OPERATIONS, *ON_UNSENT) if not one.name.startswith("unlink of an open file")],
    ids=lambda operation: operation.name,
)
def test_killed_while_the_disk_is_full_it_ends_right(
    server: Server, tmp_path: Path, operation: Operation
) -> None:
    """semantics 4: what was acknowledged stays, whatever could not be written afterwards."""
    for at in count(1):
        promise = Promise()
        with started(operation, server, tmp_path / f"{at}") as work:
            disk = Disk(work.engine, at, FOR_GOOD)
            failed = errno_from(operation.run, work, promise)
            work.boundaries.dead = True
        again = Mortal(server, work.home, Boundaries())
        again.start()
        try:
            again.settle()
            operation.check(again, promise, f"full at write {at}, errno {failed}")
        finally:
            again.end()
        if not disk.free():
            break
    print(f"{operation.name}: killed after {at - 1} writes of the journal were refused")


def edit(work: Workspace) -> None:
    work.write("scratch~", b"changed")


LOCAL: dict[str, Callable[[Workspace], object]] = {
    "create": lambda work: work.vfs.mknod("new~", 0o644, CALLER),
    "write": edit,
    "mkdir": lambda work: work.mkdir("newdir~"),
    "symlink": lambda work: work.vfs.symlink(".#new", "where", CALLER),
    "rename": lambda work: work.vfs.rename("scratch~", "other~"),
    "rename over": lambda work: work.vfs.rename("scratch~", "second~"),
    "rename of a directory": lambda work: work.vfs.rename("dir~", "dirs~"),
    "backup": lambda work: work.vfs.rename("file", "file~"),
    "backup over": lambda work: work.vfs.rename("file", "scratch~"),
    "unlink": lambda work: work.vfs.unlink("scratch~"),
    "rename to a real name": lambda work: work.vfs.rename("scratch~", "real"),
    "rename over a real name": lambda work: work.vfs.rename("scratch~", "file"),
}


def shown(work: Workspace) -> dict[str, bytes | str]:
    """What stands at the names that the operations above touch."""
    found: dict[str, bytes | str] = {}
    for name, attr in work.vfs.listdir(""):
        if stat.S_ISDIR(attr.mode):
            found |= {f"{name}/{inner}": work.read(f"{name}/{inner}") for inner in work.names(name)}
            found[name] = "directory"
        else:
            found[name] = work.vfs.readlink(name) if stat.S_ISLNK(attr.mode) else work.read(name)
    return found


def comes_to_show(work: Workspace, wanted: dict[str, bytes | str], where: str) -> None:
    seen: dict[str, bytes | str] = {}

    def look() -> bool:
        nonlocal seen
        with suppress(FsError):  # a backup comes back under its name while it is looked at
            seen = shown(work)
        return seen == wanted

    eventually(look, lambda: f"{where}: {seen}, not {wanted}")


@pytest.mark.parametrize("name", LOCAL)
def test_what_fails_on_a_name_of_this_machine_changes_nothing(
    server: Server, tmp_path: Path, name: str
) -> None:
    """semantics 4, Scratch names: they are journaled; what could not be has not happened, here and after a remount."""
    for at in count(1):
        server.reset()
        server.store.seed({"file": b"of the job"}, age=60)
        work = Mortal(server, tmp_path / f"{at}", Boundaries(), write_back_delay=60.0)
        work.start()
        try:
            work.write("scratch~", b"a scratch file")
            work.write("second~", b"another")
            work.mkdir("dir~")
            work.write("dir~/inner", b"in a directory")
            before = shown(work)
            disk = Disk(work.engine, at, FOR_GOOD)
            failed = errno_from(LOCAL[name], work)
            after = shown(work)
            # Of a write it is the close that fails: the bytes are there.
            assert not failed or name == "write" or after == before, f"full at write {at}"
            struck = disk.free()
            work.boundaries.dead = True
        finally:
            work.end()
        again = Mortal(server, work.home, Boundaries(), write_back_delay=60.0)
        again.start()
        try:
            comes_to_show(again, after, f"full at write {at}, errno {failed}")
        finally:
            again.end()
        if not struck:
            assert not failed
            break

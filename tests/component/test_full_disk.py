"""The disk of the state directory is full: what is new is refused before anything has changed, what has happened is recorded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.files import errno_from
from tests.support.operations import ON_UNSENT, OPERATIONS, Operation, Promise
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.errors import FsError
from jobfs.state.journal import Journal
from jobfs.state.records import Record

OLD, USERS = b"the old content", b"what the user wrote"

Edit = tuple[Record, Mapping[str, Any]]


class Disk:
    """Refuses all writes of a journal that are for something new, from number `at` on; `at` 0: none.

    `spent`: the others too, as there is no spare room left.
    """

    def __init__(self, journal: Journal, at: int, *, spent: bool = False) -> None:
        self.at, self.writes, self._spent = at, 0, spent
        self._real = journal.write
        journal.write = self._write  # type: ignore[method-assign]

    def _write(
        self, *edits: Edit, remove: Iterable[Record] = (), transaction_id: str = "", is_new: bool = False
    ) -> None:
        if is_new or self._spent:
            self.writes += 1
            if self.at and self.at <= self.writes:
                raise FsError(errno.ENOSPC)
        self._real(*edits, remove=remove, transaction_id=transaction_id, is_new=is_new)

    def free(self) -> bool:
        """Takes all writes from now on; returns whether it ever refused one."""
        struck = bool(self.at) and self.writes >= self.at
        self.at = 0
        return struck


def at_rest(work: Mortal) -> bool:
    return not errno_from(work.settle)


REFUSED = [(operation, killed) for operation in (*OPERATIONS, *ON_UNSENT) for killed in (False, True)]
# Of an unlink of an open file nothing is recorded before it is carried out.
REFUSED = [one for one in REFUSED if not (one[1] and one[0].name.startswith("unlink of an open file"))]


@pytest.mark.parametrize(
    ("operation", "killed"), REFUSED, ids=[f"{one.name}{', killed' * killed}" for one, killed in REFUSED]
)
def test_an_operation_on_a_full_disk_succeeds_once_there_is_space(
    server: Server, tmp_path: Path, operation: Operation, killed: bool
) -> None:
    """vfs/semantics.md 4, Nothing is forgotten; 5: ENOSPC to the writer, what was acknowledged stays; killed before, too."""
    for at in count(1):
        promise = Promise()
        with operation.started(server, tmp_path / f"{at}", Boundaries(), timeout=3.0) as work:
            work.boundaries.arm()
            disk = Disk(work.state.journal, at)
            failed = errno_from(operation.run, work, promise)
            where = f"full at write {at}, errno {failed}"
            work.boundaries.dead = killed
            if not killed:
                struck = disk.free()
                assert failed in (0, errno.ENOSPC)
                work.vfs.retry(None)
                eventually(lambda work=work: at_rest(work), "it is at rest")  # type: ignore[misc]
                operation.check(work, promise, where)
        if killed:
            with work.next() as again:
                again.settle()
                operation.check(again, promise, where)
            struck = disk.free()
        if not struck:
            break
    assert at > 1, "no write was refused"


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
JOBS = {"file": b"of the job", "other": b"another of the job", "of-the-job~": b"of such a name"}

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


def comes_to(work: Workspace, right: Callable[[dict[str, bytes | None]], bool], where: str) -> None:
    def looked() -> bool:
        try:
            return right(work.tree())
        except FsError as error:
            if error.errno != errno.ENOENT:
                raise
            # A rename that a killed mount had begun is finished in the background: between the listing and the read, too.
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
    for at in count(1):
        with with_local_names(server, tmp_path / f"{at}", name, Boundaries()) as work:
            before = work.tree()
            disk = Disk(work.state.journal, at)
            failed = errno_from(LOCAL[name][1], work)
            after = work.tree()
            # Of a write it is the close that fails: the bytes are there.
            assert not failed or name == "write" or after == before, f"full at write {at}"
            struck = disk.free()
        with work.next(**LOCAL_NAMES) as again:
            # Killed before its item has left the server, a file with a new scratch name is there under its old name too.
            least, most = after.items(), (JOBS | after).items()
            comes_to(again, lambda now, least=least, most=most: least <= now.items() <= most, f"full at {at}")  # type: ignore[misc]
        if not struck:
            # An unlink makes room, and needs none.
            assert (failed, at > 1) == (0, not name.startswith("unlink"))
            break


# -- what has been acknowledged


@pytest.mark.parametrize("kind", ["changed", "new", "refused"])
def test_an_unsent_file_can_be_unlinked(server: Server, start: Start, kind: str) -> None:
    """vfs/semantics.md 4.11 and 4, Nothing is forgotten: an operation that makes room needs none."""
    server.store.seed({} if kind == "new" else {"file": OLD}, age=60)
    work = start(write_back_delay=0 if kind == "refused" else 30)
    server.faults.set_rate("error", 1.0 if kind == "refused" else 0.0, on="create", status=413)
    work.write("file", USERS)
    eventually(lambda: kind != "refused" or work.vfs.status()["failed"], "it is refused")
    Disk(work.state.journal, 1)
    work.vfs.unlink("file")
    assert (work.names(), work.vfs.status()["failed"]) == ([], [])
    wait_until_settled(work, {})


def test_a_file_whose_close_failed_is_unsent_until_there_is_space(server: Server, start: Start) -> None:
    """vfs/semantics.md 4, Nothing is forgotten; 6: an unmount never says "all sent" before."""
    server.store.seed({"file": OLD}, age=60)
    work = start()
    fh = work.opened("file")
    work.vfs.write(fh, USERS, 0)
    disk = Disk(work.state.journal, 1, spent=True)
    assert errno_from(work.vfs.flush, fh) == errno.ENOSPC
    assert errno_from(work.vfs.release, fh) == errno.ENOSPC
    assert [left["path"] for left in work.vfs.flush_all(None, 0.5, None)] == ["file"]
    assert [entry["path"] for entry in work.vfs.status()["unsent"]] == ["file"]
    assert disk.free()
    eventually(lambda: visible(server) == {"file": USERS})
    assert work.vfs.flush_all(None, 5, None) == []

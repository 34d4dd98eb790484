"""The disk is full at any write of the journal: the caller is told, or it does not matter; nothing is lost or left hidden."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Death, Mortal, quick_finishing
from tests.support.files import errno_from
from tests.support.operations import ON_UNSENT, OPERATIONS, Operation, Promise
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Workspace

from jobfs.emulator import Server
from jobfs.errors import FsError, JobfsError
from jobfs.writeback import WriteBack
from jobfs.writeback.records import Record, Removed

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


def nothing(work: Workspace) -> None:
    pass


def unsent(work: Workspace) -> None:
    work.write("new", b"not sent")


def backup(work: Workspace) -> None:
    work.vfs.rename("file", "file~")


def both_unsent(work: Workspace) -> None:
    work.write("of-the-job~", b"edited")
    unsent(work)


def edited(work: Workspace) -> None:
    work.write("file", b"edited")


def link(work: Workspace) -> None:
    work.vfs.symlink("link", "where", CALLER)
    unsent(work)


def rename(old: str, new: str) -> Callable[[Workspace], object]:
    return lambda work: work.vfs.rename(old, new)


#: What is there before, and what is done to it; of all of these only this machine knows.
LOCAL: dict[str, tuple[Callable[[Workspace], object], Callable[[Workspace], object]]] = {
    "create": (nothing, lambda work: work.vfs.mknod("new~", 0o644, CALLER)),
    "write": (nothing, lambda work: work.write("scratch~", b"changed")),
    "mkdir": (nothing, lambda work: work.mkdir("newdir~")),
    "symlink": (nothing, lambda work: work.vfs.symlink(".#new", "where", CALLER)),
    "unlink": (nothing, lambda work: work.vfs.unlink("scratch~")),
    "unlink of a backup": (backup, lambda work: work.vfs.unlink("file~")),
    "rename": (nothing, rename("scratch~", "other~")),
    "rename over": (nothing, rename("scratch~", "second~")),
    "rename of a directory": (nothing, rename("dir~", "dirs~")),
    "rename to a real name": (nothing, rename("scratch~", "real")),
    "rename over an item": (nothing, rename("scratch~", "file")),
    "rename over an edited item": (edited, rename("scratch~", "file")),
    "backup": (nothing, rename("file", "file~")),
    "backup over": (nothing, rename("file", "scratch~")),
    "backup over a backup": (backup, rename("other", "file~")),
    "rename over a backup": (backup, rename("scratch~", "file~")),
    "rename to the old name of a backup": (backup, rename("scratch~", "file")),
    "unsent to a scratch name": (unsent, rename("new", "new~")),
    "unsent over a scratch file": (unsent, rename("new", "scratch~")),
    "unsent over an edited item of such a name": (both_unsent, rename("new", "of-the-job~")),
    "unsent over a link": (link, rename("new", "link")),
}


#: Of a backup that is replaced or unlinked the item goes too; it is back where it was if that could not be recorded.
MAY_BE_BACK = dict.fromkeys(("unlink of a backup", "backup over a backup", "rename over a backup"), "file")


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


def comes_to_show(work: Workspace, wanted: dict[str, bytes | str], where: str, may_be_back: str = "") -> None:
    seen: dict[str, bytes | str] = {}

    def look() -> bool:
        nonlocal seen
        with suppress(FsError):  # a backup comes back under its name while it is looked at
            seen = shown(work)
        return wanted in (seen, {path: seen[path] for path in seen if path != may_be_back})

    eventually(look, lambda: f"{where}: {seen}, not {wanted}")


@contextmanager
def with_local_names(server: Server, home: Path, name: str, boundaries: Boundaries) -> Iterator[Mortal]:
    """A mount on which what `name` in LOCAL needs is there."""
    server.reset()
    jobs = {"file": b"of the job", "other": b"another of the job", "of-the-job~": b"of such a name"}
    server.store.seed(jobs, age=60)
    work = Mortal(server, home, boundaries, write_back_delay=60.0, local_symlinks=True)
    work.start()
    try:
        work.write("scratch~", b"a scratch file")
        work.write("second~", b"another")
        work.mkdir("dir~")
        work.write("dir~/inner", b"in a directory")
        LOCAL[name][0](work)
        work.engine.sync()
        yield work
    finally:
        boundaries.dead = True
        work.end()


@contextmanager
def taken_up(work: Mortal) -> Iterator[Mortal]:
    again = Mortal(work.server, work.home, Boundaries(), write_back_delay=60.0, local_symlinks=True)
    again.start()
    try:
        yield again
    finally:
        again.end()


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("times", [1, FOR_GOOD], ids=["once", "for good"])
def test_what_fails_on_a_name_of_this_machine_changes_nothing(
    server: Server, tmp_path: Path, name: str, times: int
) -> None:
    """semantics 4, Scratch names: they are journaled; what could not be has not happened, here and after a remount."""
    for at in count(1):
        with with_local_names(server, tmp_path / f"{at}", name, Boundaries()) as work:
            before = shown(work)
            disk = Disk(work.engine, at, times)
            failed = errno_from(LOCAL[name][1], work)
            after = shown(work)
            # Of a write it is the close that fails: the bytes are there.
            assert not failed or name == "write" or after == before, f"full at write {at}"
            struck = disk.free()
        with taken_up(work) as again:
            back = MAY_BE_BACK.get(name, "") if struck else ""
            comes_to_show(again, after, f"full at write {at}, errno {failed}", back)
        if not struck:
            assert not failed
            break


@pytest.mark.parametrize("name", [name for name in LOCAL if " over " in name])
def test_killed_at_any_boundary_of_a_rename_over_a_name_of_this_machine_one_of_both_is_there(
    server: Server, tmp_path: Path, name: str
) -> None:
    """semantics 4.19: the old file or the new one, whole."""
    old_or_new: set[bytes | str] = set()
    for at in count(0):
        boundaries = Boundaries(at)
        with with_local_names(server, tmp_path / f"{at}", name, boundaries) as work:
            before = shown(work)
            boundaries.arm()
            with suppress(Death, JobfsError):
                LOCAL[name][1](work)
            if not at:
                boundaries.disarm()
                (target,) = [
                    path for path, content in shown(work).items() if before.get(path, content) != content
                ]
                old_or_new = {before[target], shown(work)[target]}
        if at:
            with taken_up(work) as again:
                comes_to_show_one(again, target, old_or_new, f"killed at {at}: {boundaries.last}")
            if not boundaries.struck:
                break


def comes_to_show_one(work: Workspace, path: str, wanted: set[bytes | str], where: str) -> None:
    def look() -> bool:
        with suppress(FsError):  # see comes_to_show
            return shown(work).get(path) in wanted
        return False

    eventually(look, lambda: f"{where}: {shown(work)}")


def test_an_unlink_that_failed_deletes_nothing_later(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4.29: its errors are the caller's; one lost answer on a full disk is no consent."""
    for at in count(1):
        server.reset()
        server.store.seed({"file": b"content"}, age=60)
        work = Mortal(server, tmp_path / f"{at}", Boundaries(), timeout=0.3, request_lifetime=0.2)
        work.start()
        try:
            work.vfs.open("file", os.O_RDONLY)
            monkeypatch.setattr(work.engine.content, "whole", lambda item, timeout=0.0: False)
            server.faults.rate("drop_after", 1.0, on="update")
            server.faults.rate("drop", 1.0, on="get")
            disk = Disk(work.engine, at, FOR_GOOD)
            assert errno_from(work.vfs.unlink, "file")
            struck = disk.free()
            server.faults.clear()
            eventually(lambda: visible(server) == {"file": b"content"}, f"full at write {at}")
            eventually(lambda work=work: work.names() == ["file"])  # type: ignore[misc]
        finally:
            work.end()
        if not struck:
            break


def test_what_is_judged_in_the_background_waits_for_space(server: Server, tmp_path: Path) -> None:
    """semantics 4: nothing is forgotten because a disk was full for a while."""
    server.store.seed({"dir": None, "file": b"old"}, age=60)
    work = Mortal(server, tmp_path / "home", Boundaries())
    work.start()
    try:
        disk = Disk(work.engine, 2, FOR_GOOD)
        work.vfs.rmdir("dir")
        eventually(lambda: disk.writes > 3, "it is tried again")
        assert disk.free()
        work.write("file", b"new", fsync=True)
        work.settle()
        assert (visible(server), hidden(server)) == ({"file": b"new"}, [])
        assert not work.engine.journal.load(Removed)
    finally:
        work.end()


@pytest.mark.parametrize("times", [2, FOR_GOOD], ids=["twice", "for good"])
@pytest.mark.parametrize("refused", [False, True], ids=["full", "full and refused"])
def test_a_rename_that_failed_is_not_done_afterwards(
    server: Server, tmp_path: Path, times: int, refused: bool
) -> None:
    """semantics 4: who is told so, and writes in place instead, makes no conflict; nor does the next mount do it."""
    for at in count(1):
        server.reset()
        server.store.seed({"file": b"content", "other": b"new"}, age=60)
        work = Mortal(server, tmp_path / f"{at}", Boundaries())
        work.start()
        try:
            if refused:
                server.faults.rate("error", 1.0, on="update", status=403)
            disk = Disk(work.engine, at, times)
            failed = errno_from(work.vfs.rename, "other", "file")
            struck = disk.free()
            server.faults.clear()
            done = server.store.read("file") == b"new"  # only its record failed: no loss, and no conflict
            assert not (refused and done)
            work.write("file", b"written in place", fsync=True)
            work.settle()
            wanted = {"file": b"written in place"} if done else {"file": b"written in place", "other": b"new"}
            assert visible(server) == wanted, f"full at write {at}, errno {failed}"
            work.boundaries.dead = True
        finally:
            work.end()
        with taken_up(work) as again:
            again.settle()
            assert visible(server) == wanted, f"full at write {at}, errno {failed}, and mounted again"
        if not struck:
            break


def test_what_a_full_disk_keeps_from_being_unlinked_is_still_refused(server: Server, tmp_path: Path) -> None:
    """semantics 4, `failed`: it is not sent again until somebody asks for that."""
    server.store.seed({"file": b"of the job"}, age=60)
    work = Mortal(server, tmp_path / "home", Boundaries())
    work.start()
    try:
        server.faults.rate("error", 1.0, on="create", status=413)
        work.write("file", b"edited")
        eventually(lambda: work.vfs.status()["failed"], "it is refused")
        disk = Disk(work.engine, 1, FOR_GOOD)
        assert errno_from(work.vfs.unlink, "file") == errno.ENOSPC
        assert disk.free()
        assert [entry["path"] for entry in work.vfs.status()["failed"]] == ["file"]
    finally:
        work.end()

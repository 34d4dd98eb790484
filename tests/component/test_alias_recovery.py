"""A backup rename (an alias) that the mount did not live to carry out: the backup is there after the next mount."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from jobfs.writeback import Inode
from tests.support.boundaries import Boundaries, Mortal, quick_finishing
from tests.support.operations import begin_once_settled
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER

from jobfs.emulator import Server
from jobfs.errors import FsError

OLD, NEW = b"the old content", b"the new one"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_finishing():
        yield


def killed_after(server: Server, home: Path, work: Callable[[Mortal], None], **options: float) -> Mortal:
    """The next mount after one that did `work` and was killed at once."""
    server.store.seed({"file.txt": OLD}, age=60)
    first = Mortal(server, home, Boundaries(), **options)
    first.start()
    try:
        work(first)
    finally:
        first.boundaries.dead = True
        first.bury()
    again = Mortal(server, home, Boundaries())
    again.start()
    return again


def backup(work: Mortal) -> None:
    work.vfs.rename("file.txt", "file.txt~")


def backup_and_save(work: Mortal) -> None:
    backup(work)
    fh = work.vfs.create("file.txt", 0o644, os.O_WRONLY, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.flush(fh)


def write(work: Mortal, path: str, data: bytes, *, fsync: bool = False) -> None:
    fh = work.vfs.create(path, 0o644, os.O_WRONLY | os.O_TRUNC, CALLER).fh
    work.vfs.write(fh, data, 0)
    if fsync:
        work.vfs.fsync(fh)
    work.vfs.flush(fh)
    work.vfs.release(fh)


def backup_and_rename_over(work: Mortal) -> None:
    backup(work)
    write(work, "file.txt.new", NEW)
    work.vfs.rename("file.txt.new", "file.txt")
    work.settle()


def backup_and_many_changes(work: Mortal) -> None:
    backup(work)
    write(work, "file.txt", b"saved once", fsync=True)
    write(work, "file.txt", b"not sent")
    work.vfs.unlink("file.txt")
    write(work, "file.txt", b"made again")
    write(work, "file.txt.new", NEW)
    work.vfs.rename("file.txt.new", "file.txt")
    work.settle()


@pytest.mark.parametrize("work", [backup_and_rename_over, backup_and_many_changes])
def test_a_backup_outlives_what_is_done_at_the_old_name(
    server: Server, tmp_path: Path, work: Callable[[Mortal], None]
) -> None:
    """semantics 4.36: a version is not deleted on the server while an alias here still needs its bytes."""
    again = killed_after(server, tmp_path / "home", work, write_back_delay=30)
    try:
        again.settle()
        eventually(lambda: again.names() == ["file.txt", "file.txt~"])
        assert again.read("file.txt~") == OLD
        assert visible(server) == {"file.txt": NEW}
    finally:
        again.stop()


def test_a_second_backup_is_remembered_though_the_first_gets_its_own_bytes_at_that_moment(
    server: Server, tmp_path: Path
) -> None:
    """semantics 4.36: a version is not deleted on the server while an alias here still needs its bytes."""

    def backup_twice(work: Mortal) -> None:
        assert work.read("file.txt") == OLD
        backup(work)
        server.faults.rate("unavailable", 1.0, on="get")  # the first version is not judged yet
        write(work, "file.txt", b"the second content", fsync=True)
        aliases, local = work.vfs._aliases, work.vfs._aliases._local
        (first,) = [inode.item.id for inode in aliases.all() if inode.item is not None]
        replaced = local.replaced

        def spared_just_before(inode: Inode) -> None:
            aliases.spare(first)
            replaced(inode)

        local.replaced = spared_just_before  # type: ignore[method-assign]
        backup(work)
        write(work, "file.txt", NEW)

    again = killed_after(server, tmp_path / "home", backup_twice, write_back_delay=30)
    try:
        server.faults.clear()
        again.settle()
        eventually(lambda: again.names() == ["file.txt", "file.txt~"])
        assert again.read("file.txt~") == b"the second content"
        assert visible(server) == {"file.txt": NEW}
    finally:
        again.stop()


def test_a_backup_outlives_its_version_becoming_a_conflict_copy(server: Server, tmp_path: Path) -> None:
    """semantics 4.36: a rename to a scratch name counts at once; the version that it took along may be kept beside the file."""
    server.set(updated_resolution="seconds")

    def backup_what_is_young(work: Mortal) -> None:
        work.vfs._aliases.stop()  # it gets its bytes a moment after this, unless the mount is killed before
        server.store.seed({"young.txt": OLD}, age=0)
        work.vfs.rename("young.txt", "young.txt~")
        write(work, "young.txt", NEW, fsync=True)
        work.settle()
        assert list(visible(server).values()).count(OLD) == 2, (
            "the job may have written to it in the same second: it was kept"
        )

    again = killed_after(server, tmp_path / "home", backup_what_is_young, write_back_delay=30)
    try:
        again.settle()
        eventually(lambda: "young.txt~" in again.names(), lambda: again.names())
        assert again.read("young.txt~") == OLD
    finally:
        again.stop()


def test_a_backup_whose_file_is_being_replaced_keeps_its_bytes(server: Server, tmp_path: Path) -> None:
    """semantics 4.36: a version is not deleted on the server while an alias here still needs its bytes."""
    work = killed_after(server, tmp_path / "home", backup_and_save, write_back_delay=30)
    try:
        work.settle()
        eventually(lambda: work.names() == ["file.txt", "file.txt~"])
        assert work.read("file.txt~") == OLD
        assert visible(server) == {"file.txt": NEW}
    finally:
        work.stop()
    work.start()
    try:
        assert work.read("file.txt~") == OLD
    finally:
        work.stop()


def test_a_backup_that_nothing_replaces_is_renamed_on_the_server(server: Server, tmp_path: Path) -> None:
    """semantics 4: if no new file of the real name is closed it becomes a real rename on the server."""
    work = killed_after(server, tmp_path / "home", backup)
    try:
        eventually(lambda: visible(server) == {"file.txt~": OLD}, lambda: visible(server))
        assert work.read("file.txt~") == OLD
    finally:
        work.stop()


def test_a_backup_is_there_though_the_job_has_moved_its_file_since(server: Server, tmp_path: Path) -> None:
    """semantics 4: nothing is forgotten; what was acknowledged to a program is there after the next mount."""

    def backup_and_move(work: Mortal) -> None:
        backup(work)
        work.boundaries.dead = True
        server.store.move("file.txt", "elsewhere.txt")

    again = killed_after(server, tmp_path / "home", backup_and_move)
    try:
        eventually(lambda: again.names() == ["elsewhere.txt", "file.txt~"], lambda: again.names())
        assert again.read("file.txt~") == OLD
    finally:
        again.stop()


def test_a_backup_is_taken_up_once_the_server_answers(server: Server, tmp_path: Path) -> None:
    """semantics 4: nothing is forgotten."""
    server.faults.next("error", on="get", times=12, status=403)
    work = killed_after(server, tmp_path / "home", backup)
    try:
        eventually(lambda: visible(server) == {"file.txt~": OLD}, lambda: visible(server))
    finally:
        work.stop()


def test_an_older_backup_is_there_until_the_newer_one_is(server: Server, tmp_path: Path) -> None:
    """semantics 4: killed at any point; a rename over a scratch file ends with the one or the other."""
    for at in count(1):
        server.reset()
        server.store.seed({"file.txt": OLD}, age=60)
        boundaries = Boundaries(at)
        first = Mortal(server, tmp_path / f"{at}", boundaries)
        first.start()
        first.write("file.txt~", NEW)
        first.work(lambda work=first: backup(work))  # type: ignore[misc]
        first.end()
        again = Mortal(server, first.home, Boundaries())
        again.start()
        try:
            eventually(lambda work=again: "file.txt~" in work.names())  # type: ignore[misc]
            assert again.read("file.txt~") in ((OLD, NEW) if boundaries.struck else (OLD,)), boundaries.last
        finally:
            again.end()
        if not boundaries.struck:
            break
    assert at > 2


def test_a_file_stays_on_this_machine_though_its_save_had_begun(server: Server, tmp_path: Path) -> None:
    """semantics 4.14: scratch names stay on this machine, also after a remount and the next one."""

    def renamed_while_it_begins(work: Mortal) -> None:
        write(work, "new.txt", NEW)
        begin_once_settled(server, work)
        work.vfs.rename("new.txt", "new.txt~")

    again = killed_after(server, tmp_path / "home", renamed_while_it_begins, write_back_delay=60)
    for _ in range(2):
        try:
            again.settle()
            again.engine.sync()
            assert again.names() == ["file.txt", "new.txt~"]
            assert again.read("new.txt~") == NEW
        finally:
            again.stop()
        again = Mortal(server, tmp_path / "home", Boundaries())
        again.start()
    again.stop()


def test_a_local_directory_that_was_being_renamed_has_its_files(server: Server, tmp_path: Path) -> None:
    """semantics 4.14: scratch names stay on this machine, wherever the mount dies."""
    for at in count(1):
        boundaries = Boundaries(at)
        first = Mortal(server, tmp_path / f"home{at}", boundaries)
        first.start()
        first.mkdir("dir~")
        first.write("dir~/file", OLD)
        first.work(lambda work=first: work.vfs.rename("dir~", "moved~"))  # type: ignore[misc]
        first.end()
        again = Mortal(server, tmp_path / f"home{at}", Boundaries())
        again.start()
        try:
            (name,) = again.names()
            assert again.read(f"{name}/file") == OLD, boundaries.last
        finally:
            again.stop()
        if not boundaries.struck:
            return


def test_a_backup_is_carried_out_where_its_directory_is_by_then(server: Server, tmp_path: Path) -> None:
    """semantics 4.28: a directory is renamed with everything under it; what was acknowledged is carried out."""
    server.store.seed({"dir/file": OLD}, age=60)
    first = Mortal(server, tmp_path / "home", Boundaries())
    first.start()
    first.vfs.rename("dir/file", "dir/file~")
    first.boundaries.dead = True
    first.bury()
    server.faults.rate("error", 1.0, on="get", status=403)
    again = Mortal(server, tmp_path / "home", Boundaries())
    again.start()
    try:
        again.vfs.rename("dir", "moved")
        server.faults.clear()
        eventually(lambda: visible(server) == {"moved": None, "moved/file~": OLD}, lambda: visible(server))
        eventually(lambda: again.names("moved") == ["file~"])
    finally:
        again.stop()


def test_a_file_is_unlinked_while_its_backup_is_being_taken_up(server: Server, tmp_path: Path) -> None:
    """semantics 3: no call can hang for ever; semantics 4: a version is not deleted while an alias here needs its bytes."""
    server.store.seed({"file": OLD}, age=60)
    first = Mortal(server, tmp_path / "home", Boundaries())
    first.start()
    first.vfs.rename("file", "file~")
    first.boundaries.dead = True
    first.bury()
    server.faults.next("slow", on="get", delay=0.5)
    again = Mortal(server, tmp_path / "home", Boundaries())
    again.start()
    try:
        eventually(lambda: not server.faults.rules())

        def unlink() -> None:
            with contextlib.suppress(FsError):  # by then it may be a backup only
                again.vfs.unlink("file")

        unlinker = threading.Thread(target=unlink, daemon=True)
        unlinker.start()
        unlinker.join(10)
        assert not unlinker.is_alive()
        eventually(lambda: again.names() == ["file~"], lambda: again.names())
        assert again.read("file~") == OLD
    finally:
        again.stop()

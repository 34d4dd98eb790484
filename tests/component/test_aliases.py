"""Backups that editors make by a rename to a scratch name (aliases), and all else that may be done to both names."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.boundaries import Boundaries, Mortal, quick_finishing
from tests.support.serverside import visible
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import CALLER, Workspace, settled

from jobfs.emulator import Server
from jobfs.nodes import Item
from jobfs.vfs import aliases

HIDDEN = f".fuse_hidden{1:016x}"
OLD, NEW = b"old", b"new one"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup that nothing follows is renamed on the server soon."""
    monkeypatch.setattr(aliases, "ALIAS_GRACE", 0.2)
    monkeypatch.setattr(aliases, "_LOOK_EVERY", 0.05)


@pytest.fixture
def seeded(server: Server) -> None:
    server.store.seed({"file": OLD, "other": b"another"}, age=60)


@pytest.fixture
def work(start: Callable[..., Workspace], seeded: None) -> Workspace:
    """A mount in which `file~` stands for the file, and what is saved is sent only when it has to be."""
    work = start(write_back_delay=30)
    work.vfs.rename("file", "file~")
    return work


@pytest.mark.parametrize("name", ["moved", "moved~", "file~", ".file.swp"])
def test_a_new_file_that_is_renamed_again_does_not_uncover_the_backups_old_name(
    server: Server, work: Workspace, name: str
) -> None:
    """semantics 4: a rename of a real name to a scratch name takes the real name away."""
    work.write("file", NEW)
    work.vfs.rename("file", name)
    expected = {"other": b"another", "file~": OLD, name: NEW}
    for _ in range(2):
        assert {path: work.read(path) for path in work.names()} == expected
        settled(work)
        eventually(lambda: "file" not in visible(server))


def test_a_new_file_that_is_unlinked_while_open_does_not_uncover_the_backups_old_name(
    server: Server, work: Workspace
) -> None:
    """semantics 4: a file unlinked while open never comes back, nor does what was there before it."""
    fh = work.vfs.create("file", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.hide("file", HIDDEN)
    assert work.names() == ["file~", "other"]
    work.vfs.release(fh)
    work.vfs.unlink(HIDDEN)
    eventually(lambda: visible(server) == {"file~": OLD, "other": b"another"})
    assert work.names() == ["file~", "other"]


def a_scratch_file(work: Workspace) -> None:
    work.write("made~", b"another")
    work.vfs.rename("made~", "file~")
    work.vfs.unlink("other")


def another_backup(work: Workspace) -> None:
    work.vfs.rename("other", "file~")


def a_backup_moved(work: Workspace) -> None:
    work.vfs.rename("other", "other~")
    work.vfs.rename("other~", "file~")


@pytest.mark.parametrize("replace", [a_scratch_file, another_backup, a_backup_moved])
def test_a_backup_that_is_replaced_goes_with_its_item(
    server: Server, work: Workspace, replace: Callable[[Workspace], None]
) -> None:
    """semantics 1: a name that the job makes again is shown; semantics 4: what is renamed over is gone."""
    replace(work)
    assert work.names() == ["file~"]
    assert work.read("file~") == b"another"
    assert "file" not in visible(server)
    server.store.seed({"file": b"the job's"})
    eventually(lambda: work.exists("file"))
    assert work.read("file") == b"the job's"


def test_a_backup_whose_version_the_job_has_deleted_is_replaced(server: Server, work: Workspace) -> None:
    """semantics 4.36: there is nothing left of it that could be kept; the rename over it is carried out."""
    server.store.replace("file", b"of the job")
    work.write("file", b"new", fsync=True)
    work.vfs.rename("file", "file~")
    assert not work.exists("file")
    assert work.read("file~") == b"new"


@pytest.mark.parametrize("end", ["goes on", "is unmounted", "is killed", "saves the file"])
def test_what_is_written_through_an_older_handle_is_the_backups(
    server: Server, tmp_path: Path, seeded: None, end: str
) -> None:
    """semantics 4: close means that this machine will not lose it."""
    with quick_finishing():
        work = Mortal(server, tmp_path / "home", Boundaries(), write_back_delay=30)
        work.start()
        fh = work.vfs.open("file", os.O_RDWR).fh
        work.vfs.rename("file", "file~")
        work.vfs.write(fh, NEW, 0)
        work.vfs.release(fh)
        if end == "saves the file":
            work.write("file", b"saved", fsync=True)
        if end == "goes on":
            eventually(lambda: not work.vfs._aliases.all())
        work.boundaries.dead = end == "is killed"
        work.end()
        again = Mortal(server, tmp_path / "home", Boundaries())
        again.start()
        try:
            again.settle()
            expected = {"file~": NEW, "other": b"another"}
            if end == "saves the file":
                expected["file"] = b"saved"
            eventually(lambda: again.names() == sorted(expected), lambda: again.names())
            assert {path: again.read(path) for path in expected} == expected
        finally:
            again.stop()


@pytest.mark.parametrize("again", [False, True])
def test_a_backup_of_what_the_job_deletes_does_not_hide_what_the_job_makes_there(
    server: Server, work: Workspace, again: bool
) -> None:
    """semantics 1: a change made by the job is visible at the latest after the TTL."""
    server.store.delete("file")
    if again:
        server.store.seed({"file": b"the job's"})
    eventually_equal(work.names, ["file", "other"] if again else ["other"])


@pytest.mark.parametrize("step", ["create", "update"])
def test_a_save_is_taken_back_before_the_backup_is(
    server: Server, start: Callable[..., Workspace], step: str
) -> None:
    """save-protocol R10: an unlink during a save deletes T's item if it is base; the backup of that was meant to stay."""
    server.store.seed({"file": OLD}, age=60)
    work = start(write_back_delay=0)
    assert work.names() == ["file"]
    work.vfs.rename("file", "file~")
    server.faults.next("slow", on=step, delay=0.5)
    work.write("file", NEW)
    eventually(lambda: not server.faults.rules())
    work.vfs.unlink("file")
    work.vfs.rename("file~", "file")
    assert work.names() == ["file"]
    settled(work)
    assert work.read("file") == OLD
    assert visible(server) == {"file": OLD}


def test_a_directory_replaces_one_whose_last_file_became_a_backup_elsewhere(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4: rename of a directory over an empty one."""
    server.store.seed({"dir/file": OLD, "else": None, "new/x": b"x"}, age=60)
    work = start()
    work.vfs.rename("dir/file", "else/file~")
    work.vfs.rename("new", "dir")
    assert (work.names("dir"), work.names("else")) == (["x"], ["file~"])


def test_a_scratch_file_at_the_old_name_of_a_backup_uncovers_nothing(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4: an item of a scratch name is an ordinary file; scratch names stay on this machine."""
    server.store.seed({"file~": OLD}, age=60)
    work = start()
    work.vfs.rename("file~", "older~")
    work.write("file~", NEW)
    work.vfs.unlink("file~")
    assert work.names() == ["older~"]
    eventually(lambda: visible(server) == {"older~": OLD})
    assert work.read("older~") == OLD


@pytest.mark.parametrize(("ending", "ends"), [("unlink", {}), ("open", {"file~": OLD})])
def test_a_file_made_while_its_backup_ends_is_not_hidden(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch, ending: str, ends: dict[str, bytes]
) -> None:
    """semantics 4: readers on this machine see writes at once."""
    client = work.vfs._write_back.client
    real = client.update
    maker = threading.Thread(target=work.write, args=("file", NEW))

    def meanwhile(*arguments: Any, **more: Any) -> Any:
        monkeypatch.undo()
        maker.start()
        maker.join(0.3)
        return real(*arguments, **more)

    monkeypatch.setattr(aliases, "ALIAS_GRACE", 30)
    monkeypatch.setattr(client, "update", meanwhile)
    if ending == "unlink":
        work.vfs.unlink("file~")
    else:
        work.vfs.release(work.vfs.open("file~", os.O_RDWR).fh)
    maker.join()
    assert work.names() == sorted({"file", "other", *ends})
    assert work.read("file") == NEW
    settled(work)
    assert visible(server) == {"file": NEW, "other": b"another", **ends}


def test_a_backup_that_two_give_its_bytes_at_once_keeps_them(
    work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4.36: whoever comes second finds the version deleted, and the backup with its bytes."""
    known, client = work.vfs._aliases, work.vfs._write_back.client
    known.stop()
    (inode,) = known.all()
    assert inode.item is not None
    known.detach({inode.item.id})
    real = client.get

    def given_and_deleted(item_id: str) -> Item:
        monkeypatch.setattr(client, "get", real)
        known.spare(item_id)
        client.delete(item_id)
        return real(item_id)

    monkeypatch.setattr(client, "get", given_and_deleted)
    known._settle(inode)
    assert work.read("file~") == OLD

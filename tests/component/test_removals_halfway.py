"""Removals that came half the way: what was not removed is back under its name, whatever its directory is called by now."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobfs.writeback import hiding
from jobfs.writeback.records import Aside, Removed, Save
from jobfs.writeback.transaction import Transaction
from tests.support.boundaries import Boundaries, Death, Mortal, quick_finishing
from tests.support.files import errno_from
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace

from jobfs.emulator import Server
from jobfs.errors import JobfsError, UnavailableError
from jobfs.nodes import Item

HIDDEN = f".fuse_hidden{1:016x}"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_finishing():
        yield


def no_answers(server: Server) -> None:
    """Moves are carried out, and nobody is told."""
    server.faults.rate("drop_after", 1.0, on="update")
    server.faults.rate("drop", 1.0, on="get")


def test_a_file_whose_unlink_failed_is_there_again(server: Server, start: Callable[..., Workspace]) -> None:
    """semantics 4.29: unlink is synchronous, its errors are the caller's."""
    server.store.seed({"file": b"content"}, age=60)
    work = start(timeout=0.3, request_lifetime=0.2)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    no_answers(server)
    with pytest.raises(UnavailableError):
        work.vfs.hide("file", HIDDEN)
    server.faults.clear()
    eventually(lambda: visible(server) == {"file": b"content"}, lambda: hidden(server))
    eventually(lambda: work.names() == ["file"])
    work.vfs.release(fh)


def test_a_directory_whose_rmdir_failed_does_not_stay_hidden(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """save-protocol R12: it is looked at again, then deleted or put back."""
    server.store.seed({"dir": None}, age=60)
    work = start(timeout=0.3, request_lifetime=0.2)
    assert work.names("dir") == []
    no_answers(server)
    with pytest.raises(UnavailableError):
        work.vfs.rmdir("dir")
    server.faults.clear()
    eventually(lambda: not hidden(server), lambda: hidden(server))


def test_a_removed_directory_goes_back_into_what_its_parent_is_called_now(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save-protocol R12: what the job put into it meanwhile is seen."""
    server.store.seed({"dir/sub": None, "dir/file": b"x"}, age=60)
    assert work.names("dir/sub") == []
    monkeypatch.setattr(work.vfs._engine.removals, "sweep", lambda: None)
    work.vfs.rmdir("dir/sub")
    (moved,) = hidden(server)
    server.store.seed({f"{moved}/new": b"the job's"})
    work.vfs.rename("dir", "other")
    monkeypatch.undo()
    eventually(lambda: visible(server).get("other/sub/new") == b"the job's", lambda: hidden(server))


def test_an_unlink_that_was_not_confirmed_is_undone_in_a_directory_that_was_renamed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save-protocol, Recovery: nothing that was set aside stays hidden."""
    server.store.seed({"dir/file": b"content"}, age=60)
    first = Mortal(server, tmp_path / "home", Boundaries())
    first.start()
    for step in ("_confirm", "_conclude"):
        monkeypatch.setattr(first.engine.hiding, step, lambda path, work: None)
    first.vfs.open("dir/file", os.O_RDONLY)
    first.vfs.hide("dir/file", f"dir/{HIDDEN}")
    first.boundaries.dead = True
    first.bury()
    server.store.move("dir", "other")
    again = Mortal(server, tmp_path / "home", Boundaries())
    again.start()
    try:
        eventually(lambda: visible(server).get("other/file") == b"content", lambda: hidden(server))
    finally:
        again.stop()


def test_killed_while_what_is_renamed_over_an_open_file_is_saved_first_that_file_is_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: killed at any point, a rename over a file ends with the one or the other whole under the name."""
    monkeypatch.setattr(hiding, "_PAIRED", 60.0)  # libfuse takes no time in between
    server.store.seed({"file": b"content", "other": b"old"}, age=60)
    first = Mortal(server, tmp_path / "home", Boundaries(), write_back_delay=60)
    first.start()
    first.vfs.open("file", os.O_RDONLY)
    first.write("other", b"new")
    server.faults.next("slow", on="create", delay=0.5)

    def replace() -> None:
        first.vfs.hide("file", HIDDEN)
        with contextlib.suppress(JobfsError, Death):
            first.vfs.rename("other", "file")

    replacing = threading.Thread(target=replace)
    replacing.start()
    eventually(lambda: not server.faults.rules())
    first.engine.hiding.go_on()  # another program does something
    first.boundaries.dead = True
    replacing.join()
    first.bury()
    again = Mortal(server, tmp_path / "home", Boundaries())
    again.start()
    try:
        again.settle()
        eventually(lambda: visible(server) == {"file": b"content", "other": b"new"}, lambda: visible(server))
    finally:
        again.stop()


def test_an_open_file_is_there_again_when_the_rename_over_it_fails(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: what failed has changed nothing."""
    monkeypatch.setattr(hiding, "_PAIRED", 60.0)  # libfuse takes no time in between
    server.store.seed({"file": b"content", "other": b"old"}, age=60)
    work = start(timeout=1.0, write_back_delay=60)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    work.write("other", b"new")
    server.faults.rate("unavailable", 1.0, on="create")
    work.vfs.hide("file", HIDDEN)
    with pytest.raises(UnavailableError):
        work.vfs.rename("other", "file")
    server.faults.clear()
    eventually(lambda: visible(server) == {"file": b"content", "other": b"old"}, lambda: visible(server))
    eventually(lambda: work.names() == ["file", "other"])
    assert (work.read("file"), work.read("other")) == (b"content", b"new")
    work.vfs.release(fh)


def test_an_open_file_that_was_slow_to_be_hidden_is_renamed_over_nevertheless(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4: how long the server takes says nothing about what libfuse does next."""
    monkeypatch.setattr(hiding, "_PAIRED", 0.4)
    server.store.seed({"file": b"content", "other": b"new"}, age=60)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    server.faults.next("slow", on="update", delay=0.5)
    work.vfs.hide("file", HIDDEN)
    work.vfs._engine.hiding.go_on()  # another program does something
    server.faults.rate("error", 1.0, on="update", status=403)
    with pytest.raises(JobfsError):
        work.vfs.rename("other", "file")
    server.faults.clear()
    eventually(lambda: visible(server) == {"file": b"content", "other": b"new"}, lambda: visible(server))
    work.vfs.release(fh)


def test_a_directory_is_removed_again_while_the_first_removal_is_looked_at(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: a removal that was begun and never carried out says nothing about the next one of the same directory."""
    (directory,) = server.store.seed({"dir": None}, age=60)
    removals, namespace = work.vfs._engine.removals, work.vfs._write_back.namespace
    killed = Removed(directory.id, f".jobfs-{work.mount_id}-{'f' * 16}-removed-dir", "dir")
    work.vfs._state.journal.write(killed)
    removals.restore([killed])
    killed.unsure_until = 0.0
    real = namespace.refresh

    def removed_again() -> None:
        monkeypatch.setattr(namespace, "refresh", real)
        work.vfs.rmdir("dir")
        real()

    monkeypatch.setattr(namespace, "refresh", removed_again)
    removals.sweep()
    eventually(lambda: not removals.known())
    assert (visible(server), hidden(server)) == ({}, [])


def test_a_file_is_there_again_when_the_rename_over_it_is_refused_and_so_is_all_that_puts_it_back(
    server: Server, work: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 4, 5: a key that is refused from one request to the next leaves the target where it was, once it is taken."""
    server.store.seed({"file": b"content", "other": b"new"}, age=60)
    client = work.vfs._write_back.client
    real = client.update

    def the_last_one_for_a_while(*args: Any, **more: Any) -> Item:
        answer = real(*args, **more)
        monkeypatch.setattr(client, "update", real)
        server.faults.rate("error", 1.0, status=403)
        return answer

    monkeypatch.setattr(client, "update", the_last_one_for_a_while)
    assert errno_from(work.vfs.rename, "other", "file") == errno.EACCES
    server.faults.clear()
    eventually(lambda: visible(server) == {"file": b"content", "other": b"new"}, lambda: visible(server))
    assert hidden(server) == []
    assert work.names() == ["file", "other"]
    eventually(lambda: not work.vfs._state.journal.load(Save))


def test_a_hidden_file_that_was_judged_is_not_decided_on_again(server: Server, work: Workspace) -> None:
    """semantics 4.33: it is deleted once the next operation shows that nothing is renamed over it, or a moment later."""
    server.store.seed({"file": b"content"}, age=60)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    work.vfs.hide("file", HIDDEN)
    hiding = work.vfs._engine.hiding
    removal = hiding._hidden["file"].work
    hiding.conclude_all()
    eventually(lambda: not removal.asides)
    hiding._confirm("file", removal)  # its timer, late
    assert server.store.items() == []
    assert not work.vfs._state.journal.load(Save)
    work.vfs.release(fh)


def test_what_replaces_a_hidden_file_is_not_saved_before_it_knows_that(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """save-protocol, promote: the version that it replaces is its own to judge, from its first step on."""
    monkeypatch.setattr(hiding, "_PAIRED", 60.0)  # libfuse takes no time in between
    server.store.seed({"file": b"content"}, age=60)
    work = start(write_back_delay=0.0)
    work.write("scratch~", b"new content")
    fh = work.vfs.open("file", os.O_RDONLY).fh
    work.vfs.hide("file", HIDDEN)
    uploader = work.vfs._engine.uploader
    real, queued = uploader.add, []

    def add(save: Transaction, delay: float) -> None:
        queued.append(len(save.asides))
        real(save, delay)

    monkeypatch.setattr(uploader, "add", add)
    work.vfs.rename("scratch~", "file")
    work.vfs.release(fh)
    assert queued
    assert set(queued) == {1}
    eventually(lambda: (visible(server), hidden(server)) == ({"file": b"new content"}, []))
    assert not work.vfs._state.journal.load(Aside)


def test_a_file_is_renamed_over_an_edited_one_of_a_scratch_name_that_the_job_made(
    server: Server, work: Workspace
) -> None:
    """semantics 4.17: an item of such a name is an ordinary file, also while what was written to it here is not sent."""
    server.store.seed({"file": b"of the job", "file~": b"a backup of the job's"}, age=60)
    work.write("file~", b"edited")
    work.vfs.rename("file", "file~")
    assert work.read("file~") == b"of the job"
    eventually(lambda: (visible(server), hidden(server)) == ({"file~": b"of the job"}, []))
    assert work.names() == ["file~"]

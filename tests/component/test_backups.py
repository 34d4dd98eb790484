"""Backups that editors make by a rename to a scratch name: here at once, on the server a few seconds later."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.serverside import contents, untimed, visible
from tests.support.waiting import eventually, eventually_equal
from tests.support.workspaces import CALLER, Workspace, settled

from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.save import writeback

HIDDEN = f".fuse_hidden{1:016x}"
OLD, NEW, OTHER = b"old", b"new one", b"another"


@pytest.fixture
def waits(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No backup is renamed on the server by itself."""
    monkeypatch.setattr(writeback, "BACKUP_DELAY", 60.0)


@pytest.fixture
def seeded(server: Server) -> None:
    server.store.seed({"file": OLD, "other": OTHER}, lifecycle="application", age=60)


def back_up(work: Workspace) -> None:
    assert work.read("file") == OLD
    number = work.vfs.getattr("file").ino
    work.vfs.rename("file", "file~")
    assert work.vfs.getattr("file~").ino == number


@pytest.fixture(params=["the job's", "saved here"])
def work(
    request: pytest.FixtureRequest, start: Callable[..., Workspace], seeded: None, waits: None
) -> Workspace:
    """A mount in which `file~` is the backup of `file`, and what is saved is sent only when it has to be."""
    work = start(write_back_delay=30)
    if request.param == "saved here":
        work.write("file", OLD, fsync=True)
        settled(work)
    back_up(work)
    return work


def tree(work: Workspace) -> dict[str, bytes]:
    return {name: work.read(name) for name in work.names()}


# -- alone


def test_it_is_here_at_once_and_costs_no_request(server: Server, work: Workspace) -> None:
    """semantics 4.34: the scratch file has the bytes at once, on this machine."""
    server.log.clear()
    assert tree(work) == {"file~": OLD, "other": OTHER}
    assert server.log.changes() == []
    assert visible(server)["file"] == OLD


def test_it_is_renamed_on_the_server_when_nothing_takes_its_name(
    server: Server, start: Callable[..., Workspace], seeded: None
) -> None:
    """semantics 4.35: the item's move on the server waits a few seconds; then it is an item as any other."""
    work = start()
    back_up(work)
    looked_up = work.vfs._view.get("file~")
    number = work.vfs.getattr("file~").ino
    eventually(lambda: visible(server) == {"file~": OLD, "other": OTHER})
    eventually(lambda: not work.vfs._state.changes)
    assert work.vfs._view.attr(looked_up).size == len(OLD), "to a look-up that overlaps"
    assert tree(work) == {"file~": OLD, "other": OTHER}
    assert work.vfs.getattr("file~").ino == number
    server.store.write("file~", b"of the job")
    eventually(lambda: work.read("file~") == b"of the job")


def test_without_its_bytes_here_it_is_a_plain_rename(
    server: Server, start: Callable[..., Workspace], seeded: None, waits: None
) -> None:
    """core: where the bytes are not in the cache, it is a plain rename at once."""
    work = start()
    work.vfs.rename("file", "file~")
    assert visible(server) == {"file~": OLD, "other": OTHER}
    assert tree(work) == {"file~": OLD, "other": OTHER}


def test_over_an_older_backup_it_gets_its_bytes_and_is_not_moved_on_the_server(
    server: Server, start: Callable[..., Workspace], seeded: None, waits: None
) -> None:
    """core: a file of this machine; killed after the item was moved to a name that one has here, it would be covered up."""
    work = start()
    work.write("file~", b"older")
    work.vfs.rename("file", "file~")
    assert visible(server) == {"file": OLD, "other": OTHER}
    for _ in range(2):
        assert tree(work) == {"file~": OLD, "other": OTHER}
        work.stop()
        work.start()


# -- a new file of the old name


@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "close"])
def test_a_new_file_of_the_old_name_is_one_save_of_the_item(
    server: Server, work: Workspace, fsync: bool
) -> None:
    """semantics 4.34: the move is void if a new file of the real name comes, which is then one save of that item."""
    (item,) = [item.id for item in server.store.items() if item.path == "file"]
    work.write("file", NEW, fsync=fsync)
    settled(work)
    assert visible(server) == {"file": NEW, "other": OTHER}
    assert item not in [item.id for item in server.store.items()]
    assert server.store.item("file").lifecycle == "application"
    for _ in range(2):
        assert tree(work) == {"file": NEW, "file~": OLD, "other": OTHER}
        work.stop()
        work.start()


def test_what_the_job_wrote_to_the_item_meanwhile_is_kept(server: Server, work: Workspace) -> None:
    """semantics 4, Keep both: the version that was backed up is what the save is based on."""
    server.store.write("file", b"of the job")
    work.write("file", NEW)
    settled(work)
    found = visible(server)
    assert found.pop("file") == NEW
    assert sorted(content or b"" for content in found.values()) == sorted([b"of the job", OTHER])
    assert work.read("file~") == OLD


def test_a_new_file_that_is_renamed_over_it_from_a_scratch_name(server: Server, work: Workspace) -> None:
    """semantics 4: rename over; what the backup was made of is what is replaced."""
    work.write("file.new~", NEW)
    work.vfs.rename("file.new~", "file")
    settled(work)
    assert visible(server) == {"file": NEW, "other": OTHER}
    assert tree(work) == {"file": NEW, "file~": OLD, "other": OTHER}


def test_an_item_that_is_renamed_to_the_old_name(server: Server, work: Workspace) -> None:
    """semantics 4: rename over; nothing is shown at the old name, and the item that stands there is replaced."""
    work.vfs.rename("other", "file")
    assert tree(work) == {"file": OTHER, "file~": OLD}
    settled(work)
    assert visible(server) == {"file": OTHER}
    assert tree(work) == {"file": OTHER, "file~": OLD}


@pytest.mark.parametrize("name", ["moved", "file~"])
def test_a_new_file_that_is_renamed_again_does_not_uncover_the_old_name(
    server: Server, work: Workspace, name: str
) -> None:
    """semantics 4: a rename of a real name to a scratch name takes the real name away."""
    work.write("file", NEW)
    work.vfs.rename("file", name)
    expected = {"other": OTHER, "file~": OLD, name: NEW}
    assert tree(work) == expected
    settled(work)
    assert tree(work) == expected
    assert "file" not in visible(server)


@pytest.mark.parametrize("how", ["unlinked", "unlinked while open"])
def test_a_new_file_that_is_unlinked_does_not_uncover_the_old_name(
    server: Server, work: Workspace, how: str
) -> None:
    """semantics 4: a file that was unlinked never comes back, nor does what was there before it."""
    fh = work.vfs.create("file", 0o644, os.O_RDWR, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    if how == "unlinked":
        work.vfs.release(fh)
        work.vfs.unlink("file")
    else:
        work.vfs.hide("file", HIDDEN)
        assert work.names() == ["file~", "other"]
        work.vfs.release(fh)
        work.vfs.unlink(HIDDEN)
    assert tree(work) == {"file~": OLD, "other": OTHER}
    settled(work)
    assert visible(server) == {"other": OTHER}
    assert tree(work) == {"file~": OLD, "other": OTHER}


@pytest.mark.parametrize("step", ["create", "update"])
def test_a_save_is_taken_back_and_the_backup_gets_its_name_again(
    server: Server, start: Callable[..., Workspace], seeded: None, waits: None, step: str
) -> None:
    """save-protocol R10: an unlink during a save deletes T's item if it is base; the backup has its own bytes."""
    work = start(write_back_delay=0)
    back_up(work)
    server.faults.next("slow", on=step, delay=0.5)
    work.write("file", NEW)
    eventually(lambda: not server.faults.rules())
    work.vfs.unlink("file")
    work.vfs.rename("file~", "file")
    assert work.names() == ["file", "other"]
    settled(work)
    assert tree(work) == visible(server) == {"file": OLD, "other": OTHER}


def test_a_directory_is_made_at_the_old_name(server: Server, work: Workspace) -> None:
    """semantics 4: what is shown as free is free."""
    work.mkdir("file")
    work.write("file/inside", b"x")
    settled(work)
    assert visible(server) == {"file": None, "file/inside": b"x", "file~": OLD, "other": OTHER}


def test_a_scratch_file_at_its_old_name_uncovers_nothing(
    server: Server, start: Callable[..., Workspace]
) -> None:
    """semantics 4.17: an item of a scratch name is an ordinary file; scratch names stay on this machine."""
    server.store.seed({"file~": OLD}, age=60)
    work = start()
    assert work.read("file~") == OLD
    work.vfs.rename("file~", "older~")
    work.write("file~", NEW)
    work.vfs.unlink("file~")
    assert work.names() == ["older~"]
    settled(work)
    eventually(lambda: work.names() == ["older~"])
    assert work.read("older~") == OLD


# -- the backup itself


def test_a_directory_replaces_one_whose_last_file_became_a_backup_elsewhere(
    server: Server, start: Callable[..., Workspace], waits: None
) -> None:
    """semantics 4: rename of a directory over an empty one."""
    server.store.seed({"dir/file": OLD, "else": None, "new/x": b"x"}, age=60)
    work = start()
    assert work.read("dir/file") == OLD
    work.vfs.rename("dir/file", "else/file~")
    work.vfs.rename("new", "dir")
    settled(work)
    assert (work.names("dir"), work.names("else")) == (["x"], ["file~"])
    assert visible(server)["else/file~"] == OLD


def test_it_gets_its_old_name_again(server: Server, work: Workspace) -> None:
    """semantics 4: rename; it is as if nothing had happened."""
    before = server.store.item("file").id, work.vfs.getattr("file~").ino
    work.vfs.rename("file~", "file")
    settled(work)
    assert tree(work) == visible(server) == {"file": OLD, "other": OTHER}
    assert (server.store.item("file").id, work.vfs.getattr("file").ino) == before


def test_it_is_unlinked(server: Server, work: Workspace) -> None:
    """semantics 4.29: the id that stood at that path."""
    work.vfs.unlink("file~")
    assert work.names() == ["other"]
    settled(work)
    assert visible(server) == {"other": OTHER}


def a_scratch_file(work: Workspace) -> None:
    work.write("made~", OTHER)
    work.vfs.rename("made~", "file~")
    work.vfs.unlink("other")


def another_backup(work: Workspace) -> None:
    assert work.read("other") == OTHER
    work.vfs.rename("other", "file~")


def a_backup_moved(work: Workspace) -> None:
    assert work.read("other") == OTHER
    work.vfs.rename("other", "other~")
    work.vfs.rename("other~", "file~")


@pytest.mark.parametrize("replace", [a_scratch_file, another_backup, a_backup_moved])
def test_it_is_replaced_and_goes_with_its_item(
    server: Server, work: Workspace, replace: Callable[[Workspace], None]
) -> None:
    """semantics 1: a name that the job makes again is shown; semantics 4: what is renamed over is gone."""
    replace(work)
    assert tree(work) == {"file~": OTHER}
    settled(work)
    assert tree(work) == {"file~": OTHER}
    assert "file" not in visible(server)
    assert OLD not in visible(server).values()
    server.store.seed({"file": b"the job's"})
    eventually(lambda: work.exists("file"))
    assert work.read("file") == b"the job's"


def test_a_file_replaces_an_edited_one_of_a_scratch_name_that_the_job_made(
    server: Server, start: Callable[..., Workspace], seeded: None
) -> None:
    """semantics 4.17: an item of such a name is an ordinary file, also while what was written to it here is not sent."""
    server.store.seed({"file~": b"a backup of the job's"}, age=60)
    work = start(write_back_delay=30)
    work.write("file~", b"edited")
    back_up(work)
    assert work.read("file~") == OLD
    settled(work)
    assert tree(work) == visible(server) == {"file~": OLD, "other": OTHER}


def test_a_file_that_is_written_to_replaces_it(server: Server, work: Workspace) -> None:
    """semantics 4.36: the backup's item goes with it, and does not come back under its old name."""
    fh = work.vfs.open("other", os.O_RDWR).fh
    work.vfs.write(fh, b"ANOTHER", 0)
    work.vfs.rename("other", "file~")
    work.vfs.write(fh, b"!", 7)
    work.vfs.flush(fh)
    work.vfs.release(fh)
    settled(work)
    assert tree(work) == {"file~": b"ANOTHER!"}
    assert OLD not in visible(server).values()


@pytest.mark.parametrize("then", ["unlinked", "renamed"])
@pytest.mark.parametrize("settles", [True, False])
def test_what_is_written_to_it_is_a_save_of_the_item(
    server: Server, start: Callable[..., Workspace], seeded: None, then: str, settles: bool
) -> None:
    """semantics 4.17: an item of a scratch name is an ordinary file; unlinked or renamed it does not come back."""
    work = start(write_back_delay=0)
    back_up(work)
    fh = work.vfs.open("file~", os.O_WRONLY | os.O_APPEND).fh
    work.vfs.write(fh, NEW, len(OLD))
    work.vfs.flush(fh)
    work.vfs.release(fh)
    if settles:
        settled(work)
        assert tree(work) == visible(server) == {"file~": OLD + NEW, "other": OTHER}
    if then == "unlinked":
        work.vfs.unlink("file~")
    else:
        work.vfs.rename("file~", "third")
    settled(work)
    third = {"third": OLD + NEW} if then == "renamed" else {}
    assert tree(work) == visible(server) == {"other": OTHER, **third}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_the_job_wrote_before_it_was_renamed_is_kept_when_it_is_saved(
    server: Server, work: Workspace, when: str
) -> None:
    """semantics 4, Keep both: its program was shown the version that was backed up."""
    fh = work.vfs.open("file~", os.O_RDWR).fh
    assert work.vfs.read(fh, 10, 0) == OLD
    if when == "before":
        work.vfs.write(fh, NEW, 0)
        work.vfs.flush(fh)
        work.vfs._state.sync()
    server.store.write("file", b"of the job")
    settled(work)
    if when == "after":
        assert sorted(visible(server)) == ["file~", "other"]
        work.vfs.write(fh, NEW, 0)
        work.vfs.flush(fh)
        settled(work)
    work.vfs.release(fh)
    assert visible(server)["file~"] == NEW
    assert sorted(contents(server)) == sorted([NEW, OTHER, b"of the job"])


def test_what_is_written_to_it_before_and_after_it_was_renamed_is_all_sent(
    server: Server, start: Callable[..., Workspace], seeded: None
) -> None:
    """semantics 4, close: the bytes of each close are kept, and sent."""
    work = start(write_back_delay=30)
    back_up(work)
    backup = work.vfs._state.at("file~")
    assert backup is not None
    for line in (NEW, OTHER):
        fh = work.vfs.open("file~", os.O_WRONLY | os.O_APPEND).fh
        work.vfs.write(fh, line, 0)
        work.vfs.flush(fh)
        work.vfs.release(fh)
        eventually(lambda: not backup.stays)
    settled(work)
    assert tree(work) == visible(server) == {"file~": OLD + NEW + OTHER, "other": OTHER}


def test_what_the_job_has_put_at_its_name_is_kept_though_it_has_the_same_bytes(
    server: Server, start: Callable[..., Workspace], seeded: None, waits: None
) -> None:
    """semantics 4, Keep both: of the file that was backed up, nothing else has them any more."""
    work = start(write_back_delay=30)
    back_up(work)
    fh = work.vfs.open("file~", os.O_RDWR | os.O_TRUNC).fh
    work.vfs.write(fh, NEW, 0)
    work.vfs.flush(fh)
    work.vfs.release(fh)
    server.store.seed({"file~": OLD})
    server.store.write("file", b"of the job")
    settled(work)
    assert visible(server)["file~"] == NEW
    assert sorted(contents(server)) == sorted([NEW, OLD, OTHER, b"of the job"])


def test_what_is_written_to_it_after_a_restart_is_a_save_of_the_item(
    server: Server, mortal: Callable[..., Mortal], seeded: None
) -> None:
    """semantics 4, close: it has not got its name on the server yet."""
    work = mortal(write_back_delay=30)
    assert work.read("file") == OLD
    work.vfs.rename("file", "file~")
    work.vfs._state.sync()
    work.boundaries.dead = True
    work.end()
    server.faults.next("unavailable", on="update", times=1000)
    again = mortal(write_back_delay=30)
    fh = again.vfs.open("file~", os.O_WRONLY | os.O_APPEND).fh
    again.vfs.write(fh, NEW, 0)
    again.vfs.flush(fh)
    again.vfs.release(fh)
    server.faults.clear()
    again.settle()
    assert visible(server) == {"file~": OLD + NEW, "other": OTHER}


@pytest.mark.parametrize("end", ["is unmounted", "is killed", "saves the file"])
def test_what_is_written_through_an_older_handle_is_its_own(
    server: Server, mortal: Callable[..., Mortal], seeded: None, end: str
) -> None:
    """semantics 4.3: close means that this machine will not lose it."""
    work = mortal(write_back_delay=30)
    fh = work.vfs.open("file", os.O_RDWR).fh
    assert work.vfs.read(fh, 10, 0) == OLD
    work.vfs.rename("file", "file~")
    work.vfs.write(fh, NEW, 0)
    assert work.vfs.read(fh, 10, 0) == NEW
    work.vfs.release(fh)
    if end == "saves the file":
        work.write("file", b"saved", fsync=True)
    work.boundaries.dead = end == "is killed"
    work.end()
    again = mortal()
    again.settle()
    expected = {"file~": NEW, "other": OTHER}
    if end == "saves the file":
        expected["file"] = b"saved"
    eventually(lambda: again.names() == sorted(expected), lambda: again.names())
    assert tree(again) == expected


def test_it_goes_along_with_its_directory(
    server: Server, start: Callable[..., Workspace], waits: None
) -> None:
    """semantics 4.28: a directory is renamed with everything under it."""
    server.store.seed({"dir/file": OLD}, age=60)
    work = start()
    assert work.read("dir/file") == OLD
    work.vfs.rename("dir/file", "dir/file~")
    work.vfs.rename("dir", "moved")
    assert work.read("moved/file~") == OLD
    settled(work)
    assert visible(server) == {"moved": None, "moved/file~": OLD}
    assert work.names("moved") == ["file~"]


# -- the job


def test_what_the_job_makes_at_the_old_name_is_shown(
    server: Server, start: Callable[..., Workspace], seeded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """semantics 1: a change made by the job is visible; the backup has its own bytes."""
    monkeypatch.setattr(writeback, "BACKUP_DELAY", 3.0)
    work = start()
    back_up(work)
    server.store.delete("file")
    server.store.seed({"file": b"the job's"})
    eventually_equal(work.names, ["file", "file~", "other"])
    eventually(lambda: not work.vfs._state.changes)
    assert tree(work) == {"file": b"the job's", "file~": OLD, "other": OTHER}


@pytest.fixture
def renamed(
    server: Server, start: Callable[..., Workspace], seeded: None, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """The job gives the item another name, `moved`, before it could be moved for the backup."""
    monkeypatch.setattr(writeback, "BACKUP_DELAY", 3.0)
    work = start(write_back_delay=60)
    back_up(work)
    server.store.move("file", "moved")
    work.vfs.refresh()
    return work


def test_what_the_job_has_renamed_is_another_file_than_the_backup(server: Server, renamed: Workspace) -> None:
    """semantics 1: two files never have one inode number; the job's own rename stands."""
    for _ in range(2):
        assert tree(renamed) == {"file~": OLD, "moved": OLD, "other": OTHER}
        assert renamed.vfs.getattr("file~").ino != renamed.vfs.getattr("moved").ino
        settled(renamed)
        renamed.vfs.refresh()
        assert visible(server) == {"moved": OLD, "other": OTHER}
    renamed.stop()
    renamed.start()
    assert tree(renamed) == {"file~": OLD, "moved": OLD, "other": OTHER}


@pytest.mark.parametrize(
    ("change", "to"),
    [("write", "file~"), ("unlink", "moved"), ("rename", "file~"), ("rename over", "moved")],
)
def test_what_is_done_to_the_one_is_not_done_to_the_other(
    server: Server, renamed: Workspace, change: str, to: str
) -> None:
    """semantics 4.29: the id that stood at that path; the job's own rename stands."""
    work, shown = renamed, {"file~": OLD, "moved": OLD, "other": OTHER}
    if change == "write":
        work.write(to, NEW)
        shown[to] = NEW
    elif change == "unlink":
        work.vfs.unlink(to)
        del shown[to]
    elif change == "rename":
        work.vfs.rename(to, "kept")
        shown["kept"] = shown.pop(to)
    else:
        work.vfs.rename("other", to)
        shown[to] = shown.pop("other")
    assert tree(work) == shown
    settled(work)
    work.vfs.refresh()
    for _ in range(2):
        assert tree(work) == shown
        work.stop()
        work.start()


# -- what fails, and the end of the mount


def test_a_move_that_is_refused_leaves_the_backup_here(
    server: Server, start: Callable[..., Workspace], seeded: None
) -> None:
    """semantics 4, Nothing is forgotten: the server's word counts at the old name again."""
    work = start()
    server.faults.rate("error", 1.0, on="update", status=403)
    back_up(work)
    eventually(lambda: not work.vfs._state.changes)
    assert tree(work) == {"file": OLD, "file~": OLD, "other": OTHER}
    assert visible(server) == {"file": OLD, "other": OTHER}


@pytest.mark.parametrize("fault", ["drop", "late"])
def test_whatever_becomes_of_the_answer(
    server: Server, start: Callable[..., Workspace], seeded: None, fault: str
) -> None:
    """semantics 5.9: look at the server first."""
    work = start()
    server.faults.next(fault, on="update", delay=0.2)  # type: ignore[arg-type]
    back_up(work)
    settled(work)
    eventually(lambda: visible(server) == {"file~": OLD, "other": OTHER})
    eventually(lambda: tree(work) == {"file~": OLD, "other": OTHER})


@pytest.mark.parametrize("then", ["is killed", "unlinks", "closes"])
def test_killed_before_the_new_file_of_the_old_name_was_closed(
    server: Server, mortal: Callable[..., Mortal], seeded: None, waits: None, then: str
) -> None:
    """semantics 4: a rename that was acknowledged stands; a file that was not closed has another name."""
    work = mortal(write_back_delay=30)
    back_up(work)
    fh = work.vfs.create("file", 0o644, os.O_WRONLY, CALLER).fh
    work.vfs.write(fh, NEW, 0)
    expected = {"file~": OLD, "other": OTHER}
    if then == "unlinks":
        work.vfs.unlink("file")
    elif then == "closes":
        work.vfs.flush(fh)
        expected["file"] = NEW
    else:
        expected["file.recovered"] = NEW
    work.boundaries.dead = True
    work.end()
    again = mortal()
    again.settle()
    assert untimed(tree(again)) == expected
    if then == "is killed":
        eventually(lambda: untimed(visible(server)) == expected, lambda: str(visible(server)))


@pytest.mark.parametrize("boundary", ["before update", "after update"])
def test_killed_while_it_is_renamed_on_the_server(
    server: Server, mortal: Callable[..., Mortal], seeded: None, boundary: str
) -> None:
    """semantics 4.19: killed at any point."""
    work = mortal(At(boundary))
    back_up(work)
    with suppress(JobfsError):
        work.work(lambda: None)
    work.end()
    again = mortal()
    assert work.boundaries.struck
    assert tree(again) == {"file~": OLD, "other": OTHER}
    eventually(lambda: visible(server) == {"file~": OLD, "other": OTHER})
    again.settle()
    again.state.sync()
    assert list(again.state.bytes.directory.iterdir()) == []

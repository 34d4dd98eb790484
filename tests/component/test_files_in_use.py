"""Files that are renamed, replaced or unlinked while programs write to them, or while a save of them is in flight."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.files import errno_from
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, OvertakenLock, Start, Workspace, wait_until_settled

from jobfs.emulator import Server

LARGE = os.urandom(8 << 20)


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    server.store.seed({"file": b"old", "dir/file": b"old"}, age=60)
    return start(write_back_delay=0)


# -- written while its name changes


@pytest.fixture
def renamed(server: Server, mortal: Callable[..., Mortal]) -> Callable[..., tuple[Mortal, int]]:
    """Renames `old` to `new`; a program that has read `file` writes to it, and may close it, while the request is in flight."""

    def rename(old: str, new: str, *, closed: bool) -> tuple[Mortal, int]:
        def write() -> None:
            work.vfs.write(fh, b"new", 0)
            if closed:
                work.vfs.flush(fh)

        work = mortal(At("before update", 1, write), ttl=60)
        fh = work.vfs.open("file", os.O_RDWR).fh
        work.vfs.read(fh, 100, 0)
        work.boundaries.arm()
        work.vfs.rename(old, new)
        assert work.boundaries.struck
        return work, fh

    server.store.seed({"file": b"old", "dir/file": b"old"}, age=60)
    return rename


@pytest.mark.parametrize(("name", "over"), [("moved", False), ("moved", True), ("moved~", True)])
def test_bytes_written_while_the_file_is_renamed_go_to_its_new_name(
    server: Server, renamed: Callable[..., tuple[Mortal, int]], name: str, over: bool
) -> None:
    """vfs/semantics.md 4.27, 4.34: a file is what its handles show, under one name."""
    if over:
        server.store.seed({name: b"replaced"}, age=60)
    work, fh = renamed("file", name, closed=not over)
    for _ in range(2):
        assert (work.names(), work.read(name)) == (sorted(["dir", name]), b"new")
        work.vfs.release(fh)
        wait_until_settled(work)
    eventually(lambda: "file" not in visible(server))


def test_bytes_written_during_a_replacement_belong_to_the_replaced_file(
    renamed: Callable[..., tuple[Mortal, int]],
) -> None:
    """vfs/semantics.md 4.33: a file that is renamed over is gone; its handles still read it."""
    work, fh = renamed("dir/file", "file", closed=True)
    assert work.vfs.read(fh, 100, 0) == b"new"
    work.vfs.release(fh)
    assert work.read("file") == b"old"
    wait_until_settled(work, {"dir": None, "file": b"old"})


def test_bytes_written_at_any_moment_of_a_rename_to_a_scratch_name_go_there(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 4.34: the scratch file has what the program has written."""
    for nth in count(1):
        server.store.seed({"file": b"old"}, age=60)
        work = start(write_back_delay=0)
        with work.opening("file") as fh:
            work.vfs.read(fh, 100, 0)
            file = work.vfs.get_handle(fh).file
            lock = OvertakenLock(file, partial(work.vfs.write, fh, b"new", 0), nth)
            work.vfs.rename("file", "moved~")
            if not lock.struck:
                break
            assert (work.names(), work.read("moved~")) == (["moved~"], b"new")
        wait_until_settled(work)
        eventually(lambda: visible(server) == {})
    assert nth > 1


@pytest.mark.parametrize("move_touches", ["item", "no"])
def test_the_jobs_version_from_before_the_rename_of_an_open_file_is_kept(
    server: Server, start: Start, move_touches: str
) -> None:
    """vfs/semantics.md 4.42: a write in place replaces the version that was opened."""
    server.set(move_touches=move_touches)
    server.store.seed({"file": b"old"}, age=60)
    work = start(write_back_delay=30, ttl=60)
    with work.opening("file") as fh:
        assert work.vfs.read(fh, 100, 0) == b"old"
        server.store.write("file", b"the job's")
        work.vfs.rename("file", "other")
        work.vfs.write(fh, b"new", 0)
    wait_until_settled(work)
    assert server.store.read("other") == b"new"
    assert contents(server) == [b"new", b"the job's"]


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
@pytest.mark.parametrize("change", ["write", "replace"])
def test_an_open_file_that_the_cache_does_not_take_stays_as_it_was_saved(
    server: Server, start: Start, flags: int, change: str
) -> None:
    """vfs/semantics.md 4.2, 4.42: the job's next version, which nobody has read, stays beside it."""
    saved, jobs = b"s" * (2 << 20), b"j" * (2 << 20)
    work = start(cache_size=1 << 20, write_back_delay=30)
    with work.closing(work.vfs.create("file", 0o644, flags, CALLER).fh) as fh:
        work.vfs.write(fh, saved, 0)
        work.vfs.fsync(fh)
        getattr(server.store, change)("file", jobs)
        work.vfs.write(fh, b"new", 0)
    wait_until_settled(work)
    assert contents(server) == [jobs, b"new" + saved[3:]]


@pytest.mark.parametrize("change", ["renamed", "unlinked"])
def test_a_file_that_the_job_recreated_before_an_open_is_one_file(
    server: Server, start: Start, change: str
) -> None:
    """vfs/semantics.md 4.33: a file is what its handles show, under one name, or none once it is unlinked."""
    server.store.seed({"file": b"old"}, age=60)
    work = start(write_back_delay=30, ttl=60)
    work.vfs.chmod("file", 0o755)
    server.store.replace("file", b"another")
    with work.opening("file") as fh:
        work.vfs.rename("file", "other") if change == "renamed" else work.vfs.unlink("file")
        work.vfs.write(fh, b"written", 0)
    wait_until_settled(work, {"other": b"written"} if change == "renamed" else {})


@pytest.mark.parametrize("is_sent", [False, True])
def test_an_unlink_removes_both_files_of_a_name_that_the_job_has_replaced(
    server: Server, start: Start, is_sent: bool
) -> None:
    """vfs/semantics.md 4.33: both have unsent bytes; or the newer one was sent, and the older one is being sent."""
    server.store.seed({"file": b"old"}, age=60)
    work = start(write_back_delay=0 if is_sent else 30)
    with work.opening("file") as older:
        server.store.replace("file", b"the job's")
        eventually(lambda: work.read("file") == b"the job's")
        with work.opening("file") as newer:
            work.vfs.write(older, b"written to the old file", 0)
            work.vfs.write(newer, b"written", 0)
            if is_sent:
                work.vfs.fsync(newer)
                server.faults.fail_next("slow", on="create", delay=0.3)
    eventually(lambda: not server.faults.rules(), "the older one is being sent")
    work.vfs.unlink("file")
    wait_until_settled(work, {})
    assert work.names() == []


def test_the_target_name_of_a_pending_rename_is_taken(server: Server, work: Workspace) -> None:
    """vfs/semantics.md 4.31: changes of one name come one after another."""
    server.faults.fail_next("slow", on="update", delay=0.3)
    with ThreadPoolExecutor() as pool:
        renaming = pool.submit(work.vfs.rename, "file", "new")
        eventually(lambda: not server.faults.rules(), "the rename is in flight")
        assert errno_from(work.vfs.mkdir, "new", 0o755, CALLER) == errno.EEXIST
    renaming.result()
    wait_until_settled(work, {"dir": None, "dir/file": b"old", "new": b"old"})


# -- unlinked


def test_opening_a_file_during_its_unlink_fails_with_enoent(work: Workspace) -> None:
    """vfs/semantics.md 4.29: no handle is on a file whose bytes went with its name."""
    work.write("a~", b"bytes of this machine")
    file = work.state.index.file_at("a~")
    assert file is not None
    OvertakenLock(file, partial(work.vfs.unlink, "a~"))
    assert errno_from(work.vfs.open, "a~", os.O_RDONLY) == errno.ENOENT


def test_an_unlink_does_not_wait_for_the_bytes_of_a_reader(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.36: it is unlinked at once, and goes from the server when its reader's bytes are here."""
    server.store.seed({"dir/large": LARGE, "dir/inner": b"old"}, age=60)
    work = start(ttl=0.1)
    with work.opening("dir/large", os.O_RDONLY) as fh:
        assert work.vfs.read(fh, 100, len(LARGE) - 100) == LARGE[-100:]
        server.faults.set_rate("unavailable", 1.0, on="download")
        work.vfs.unlink("dir/large")
        assert (work.names("dir"), server.store.exists("dir/large")) == (["inner"], True)
        server.faults.clear()
        work.vfs.unlink("dir/inner")
        work.vfs.rmdir("dir")
        eventually(lambda: visible(server) == {}, lambda: visible(server))
        assert work.vfs.read(fh, 100, 1 << 20) == LARGE[1 << 20 :][:100]


def test_an_unfinished_removal_is_reported_and_finished_by_the_next_mount(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """vfs/semantics.md 6.4: what is left stays in the journal for the next mount; no command reports that all is sent."""
    server.store.seed({"large": LARGE}, age=60)
    work = mortal()
    fh = work.vfs.open("large", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, len(LARGE) - 100) == LARGE[-100:]
    server.faults.set_rate("unavailable", 1.0, on="download")
    work.vfs.unlink("large")
    assert [entry["path"] for entry in work.vfs.flush_all(None, 0.2, None)] == ["large"]
    work.vfs.release(fh)
    work.kill()
    server.faults.clear()
    mortal()
    eventually(lambda: visible(server) == {})


# -- unlinked while a save of them is in flight


def make_again_and_unlink(work: Workspace) -> None:
    for _ in range(2):
        work.write("file", b"again")
        work.vfs.unlink("file")


def make_again_and_rename(work: Workspace) -> None:
    work.write("file", b"again")
    work.vfs.rename("file", "renamed")


def rename_to_it(work: Workspace) -> None:
    work.vfs.rename("other", "file")
    assert work.read("file") == b"another"


def make_a_directory(work: Workspace) -> None:
    work.mkdir("file")
    work.write("file/inside", b"x")
    assert work.names("file") == ["inside"]


@pytest.mark.parametrize(("take_name", "tree"), [
    (make_again_and_unlink, {"other": b"another"}),
    (make_again_and_rename, {"other": b"another", "renamed": b"again"}),
    (rename_to_it, {"file": b"another"}),
    (make_a_directory, {"file": None, "file/inside": b"x", "other": b"another"}),
])  # fmt: skip
def test_an_unlink_during_a_save_frees_the_name_and_the_file_does_not_return(
    server: Server, start: Start, take_name: Callable[[Workspace], None], tree: dict[str, bytes | None]
) -> None:
    """vfs/semantics.md 4.31, 4.33: unlink returns when it is recorded; own changes are visible at once."""
    server.store.seed({"file": "old", "other": "another"}, age=60)
    work = start(write_back_delay=0)
    server.faults.fail_next("slow", on="create", delay=0.3)
    work.write("file", b"no longer wanted")
    eventually(lambda: not server.faults.rules(), "the save is in flight")
    work.vfs.unlink("file")
    take_name(work)
    shown = sorted(path for path in tree if "/" not in path)
    assert work.names() == shown
    wait_until_settled(work)
    eventually(lambda: visible(server) == tree, lambda: str(visible(server)))
    assert work.names() == shown
    assert work.vfs.status()["conflicts"] == []


def test_an_fsync_does_not_hang_on_an_unlink(server: Server, start: Start) -> None:
    """vfs/semantics.md 4.33: no call waits for a file that is no longer wanted."""
    work = start(write_back_delay=30)
    with work.closing(work.opened("file")) as fh, ThreadPoolExecutor(1) as threads:
        work.vfs.write(fh, b"content", 0)
        server.faults.fail_next("slow", on="create", delay=0.3)
        syncing = threads.submit(work.vfs.fsync, fh)
        eventually(lambda: not server.faults.rules(), "the save is in flight")
        work.vfs.unlink("file")
        syncing.result(10)
    wait_until_settled(work, {})
    assert work.names() == []


@pytest.mark.parametrize("job", ["renames it", "wrote before the save"])
def test_what_the_job_makes_of_a_file_remains_if_it_is_unlinked_during_its_promote(
    server: Server, mortal: Callable[..., Mortal], job: str
) -> None:
    """save/protocol.md R10, vfs/semantics.md 4.33: what has the bytes of H is deleted at T only; under another name it is the
    job's. A file that was saved and unlinked does not come back under its name.
    """

    def unlink() -> None:
        if job == "renames it":
            server.store.move("file", "renamed")
        mount.vfs.unlink("file")

    server.store.seed({"file": "as it was"}, age=60)
    mount = mortal(At("after update", 2, unlink))
    with mount.opening("file") as fh:
        mount.vfs.write(fh, b"the user's", 0)
        if job != "renames it":
            server.store.write("file", b"the job's")
        mount.boundaries.arm()
    eventually(lambda: mount.boundaries.struck, "the save is placed")
    wait_until_settled(mount)
    if job == "renames it":
        assert visible(server) == {"renamed": b"the user's"}
        eventually(lambda: mount.names() == ["renamed"])
    else:
        assert contents(server) == [b"the job's"]
        assert "file" not in mount.names()

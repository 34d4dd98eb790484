"""Files that are unlinked, or renamed over, while a program has them open."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import pytest
from tests.support.boundaries import Mortal
from tests.support.files import errno_from
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import wait_until_settled

from jobfs.emulator import Server

OLD, OTHER, MINE, JOBS = b"of the job", b"another of the job", b"mine", b"written by the job since"
ALL = {"dir": None, "dir/inner": OLD}
LARGE = os.urandom(24 << 20)
Start = Callable[..., Mortal]


@pytest.fixture
def mortal(server: Server, mortal: Start) -> Start:
    """Starts a mount on a workspace with two files; once more: the next mount of it."""
    server.store.seed({"file": OLD, "other": OTHER, "dir/inner": OLD}, age=60)
    return partial(mortal, write_back_delay=60.0, local_symlinks=True)


@pytest.fixture
def work(mortal: Start) -> Mortal:
    """A mount where nothing is sent by itself."""
    return mortal()


def unlinked(work: Mortal, path: str, flags: int = os.O_RDWR) -> int:
    """Opens a file, and unlinks it; returns the handle."""
    fh = work.vfs.open(path, flags).fh
    work.vfs.unlink(path)
    return fh


def close(work: Mortal, fh: int) -> None:
    work.vfs.flush(fh)
    work.vfs.release(fh)


# -- unlinked


def reading(server: Server, work: Mortal) -> int:
    """A file that is being read, most of which is not on this machine; the handle."""
    server.store.seed({"dir/large": LARGE}, age=60)
    eventually(lambda: work.exists("dir/large"))
    fh = work.vfs.open("dir/large", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, len(LARGE) - 100) == LARGE[-100:]
    return fh


def test_an_unlink_does_not_wait_for_the_bytes_of_a_reader(server: Server, mortal: Start) -> None:
    """vfs/semantics.md 4.36: it is unlinked at once, and goes from the server when its reader's bytes are here."""
    work = mortal(ttl=0.1)
    fh = reading(server, work)
    server.faults.set_rate("unavailable", 1.0, on="download")
    work.vfs.unlink("dir/large")
    assert work.names("dir") == ["inner"]
    assert server.store.exists("dir/large")
    server.faults.clear()
    work.vfs.unlink("dir/inner")
    work.vfs.rmdir("dir")
    eventually(lambda: visible(server) == {"file": OLD, "other": OTHER}, lambda: visible(server))
    assert work.vfs.read(fh, 100, 10 << 20) == LARGE[10 << 20 :][:100]
    close(work, fh)


@pytest.mark.parametrize("kind", ["the job's", "saved before", "not sent", "new", "scratch~", "backup~"])
def test_an_unlinked_file_of_each_kind_is_readable_and_writable(
    server: Server, work: Mortal, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.33: it stays readable and writable through its handle; its name is gone at once."""
    path = {"scratch~": "scratch~", "backup~": "file~", "new": "new"}.get(kind, "file")
    if kind == "backup~":
        work.read("file")
        work.vfs.rename("file", "file~")
    elif kind != "the job's":
        work.write(path, MINE, fsync=kind == "saved before")
    fh = unlinked(work, path)
    assert (work.vfs.fgetattr(fh).nlink, work.exists(path)) == (0, False)
    assert work.vfs.read(fh, 100, 0) == (OLD if kind in ("the job's", "backup~") else MINE)
    with monkeypatch.context() as patch:
        patch.setattr(
            work.write_back.context, "base_of", lambda *_, **__: pytest.fail("nothing will be saved")
        )
        work.vfs.write(fh, b"SECRET", 50)
    assert work.vfs.read(fh, 100, 50) == b"SECRET"
    assert work.names() == (["dir", "other"] if path in ("file", "file~") else ["dir", "file", "other"])
    close(work, fh)
    wait_until_settled(work)
    left = {"other": OTHER} if path in ("file", "file~") else {"file": OLD, "other": OTHER}
    assert visible(server) == {**ALL, **left}
    assert work.names() == ["dir", *left]
    work.kill()
    work.start()
    assert work.names() == ["dir", *left]


# -- renamed over


def scratch(work: Mortal) -> str:
    work.write("scratch~", MINE)
    return "scratch~"


def new(work: Mortal) -> str:
    work.write("new", MINE)
    return "new"


def edited(work: Mortal) -> str:
    work.write("other", MINE)
    return "other"


def an_item(work: Mortal) -> str:
    return "other"


SOURCES = pytest.mark.parametrize("source", [scratch, new, edited, an_item])


def after(source: Callable[[Mortal], str]) -> dict[str, bytes | None]:
    """The workspace once `source` has replaced the file."""
    if source in (scratch, new):
        return {**ALL, "file": MINE, "other": OTHER}
    return {**ALL, "file": MINE if source is edited else OTHER}


@SOURCES
def test_an_open_file_that_is_renamed_over_is_readable_and_writable(
    server: Server, work: Mortal, source: Callable[[Mortal], str]
) -> None:
    """vfs/semantics.md 4: rename over; a program that has the old file open reads on, and writes under no name."""
    server.store.set_lifecycle("file", "application")
    path = source(work)
    fh = work.vfs.open("file", os.O_RDWR).fh
    work.vfs.rename(path, "file")
    wanted = after(source)
    assert work.read("file") == wanted["file"]
    assert work.vfs.read(fh, 100, 0) == OLD
    work.vfs.write(fh, b"SECRET", 0)
    assert work.vfs.read(fh, 6, 0) == b"SECRET"
    assert work.vfs.getattr("file").ino != work.vfs.fgetattr(fh).ino
    close(work, fh)
    wait_until_settled(work, wanted)
    assert source is not new or server.store.item_at("file").lifecycle == "application"
    assert hidden(server) == []
    assert work.vfs.status()["conflicts"] == []
    assert work.names() == sorted(name for name in wanted if "/" not in name)


@SOURCES
def test_a_rename_over_a_file_keeps_the_jobs_newer_version(
    server: Server, mortal: Start, source: Callable[[Mortal], str]
) -> None:
    work = mortal(ttl=60.0)
    path = source(work)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    server.store.write("file", JOBS)
    work.vfs.rename(path, "file")
    close(work, fh)
    wait_until_settled(work)
    found = visible(server)
    (copy,) = [name for name in found if "conflict" in name]
    assert found.pop(copy) == JOBS
    assert found == after(source)


@SOURCES
def test_a_refused_rename_over_an_open_file_leaves_the_file(
    server: Server, work: Mortal, source: Callable[[Mortal], str]
) -> None:
    """vfs/semantics.md 4: a failed rename has changed nothing; until the rename is sent, its file has the name here."""
    path = source(work)
    server.faults.set_rate("error", 1.0, on="change", status=403)
    fh = work.vfs.open("file", os.O_RDONLY).fh
    failed = errno_from(work.vfs.rename, path, "file")
    server.faults.clear()
    assert bool(failed) is (source in (edited, an_item))
    work.vfs.release(fh)
    if failed:
        assert work.names() == ["dir", "file", "other"]
        assert work.read("file") == OLD
        assert work.read("other") == (MINE if source is edited else OTHER)
    work.vfs.retry(None)
    wait_until_settled(work)
    before = {**ALL, "file": OLD, "other": MINE if source is edited else OTHER}
    assert visible(server) == (before if failed else after(source))


@pytest.mark.parametrize("unsent", [False, True])
def test_a_file_that_the_server_refuses_to_delete_remains(server: Server, work: Mortal, unsent: bool) -> None:
    """vfs/semantics.md 4.29: unlink's errors are the caller's."""
    if unsent:
        work.write("file", b"unsent")
    server.faults.set_rate("error", 1.0, on="delete", status=422)
    fh = work.vfs.open("file", os.O_RDWR).fh
    assert errno_from(work.vfs.unlink, "file")
    assert work.names() == ["dir", "file", "other"]
    assert work.vfs.read(fh, 100, 0) == (b"unsent" if unsent else OLD)
    close(work, fh)
    server.faults.clear()
    wait_until_settled(work)
    assert visible(server) == {**ALL, "file": b"unsent" if unsent else OLD, "other": OTHER}


def test_an_unfinished_removal_is_reported_and_finished_by_the_next_mount(
    server: Server, mortal: Start
) -> None:
    """vfs/semantics.md 6: what is left stays in the journal for the next mount; no command reports that all is sent."""
    work = mortal(ttl=0.1)
    fh = reading(server, work)
    server.faults.set_rate("unavailable", 1.0, on="download")
    work.vfs.unlink("dir/large")
    assert {entry["path"] for entry in work.vfs.flush_all(None, 0.2, None)} == {"dir/large"}
    work.vfs.release(fh)
    work.kill()
    server.faults.clear()
    again = mortal()
    eventually(lambda: visible(server) == {**ALL, "file": OLD, "other": OTHER})
    assert again.names("dir") == ["inner"]


# -- links of this machine


def test_a_file_open_at_a_lost_version_can_be_removed(server: Server, mortal: Start) -> None:
    """vfs/semantics.md 4, unlink: a file can be made again at a name though a reader's version of the old file can't be had."""
    server.store.seed({"log": os.urandom(24 << 20)}, age=60)
    work = mortal(ttl=0.1)
    fh = work.vfs.open("log", os.O_RDONLY).fh
    assert work.vfs.read(fh, 100, (24 << 20) - 100)
    server.store.append("log", b"more")
    eventually(lambda: work.vfs.getattr("log").size > 24 << 20)
    work.vfs.unlink("log")
    work.write("log", MINE, fsync=True)
    wait_until_settled(work)
    assert server.store.read("log") == MINE
    close(work, fh)

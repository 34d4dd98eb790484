"""An outage costs disk, and nothing else (vfs/semantics.md 6, Bounds)."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, Start, Workspace, wait_until_settled

from jobfs.emulator import Server

OLD, NEW, JOBS = b"old", b"new", b"the job's"
#: --timeout where nobody may wait for the server: longer than all that is done takes.
PATIENT = 5.0


def _go_down(server: Server, work: Workspace) -> None:
    """The workspace is known, and the server is found not to answer."""
    work.names()
    server.faults.set_rate("unavailable", 1.0)
    eventually(lambda: work.names() is not None and work.vfs._namespace.is_unreachable)


@pytest.fixture
def patient(start: Start) -> Workspace:
    """A mount whose listing is old at once; a request that can't be answered takes half a second."""
    return start(timeout=1.0, ttl=0.1, write_back_delay=0.0)


@pytest.fixture
def work(server: Server, patient: Workspace) -> Workspace:
    """The same in an outage."""
    _go_down(server, patient)
    return patient


def test_files_and_directories_created_in_an_outage_are_sent_after_it(
    server: Server, patient: Workspace
) -> None:
    """vfs/semantics.md 4.10: an upload that fails is tried again."""
    work = patient
    server.store.seed({"dir/there": OLD})
    _go_down(server, work)
    began = time.monotonic()
    expected: dict[str, bytes | None] = {"dir": None, "dir/there": OLD}
    for number in range(20):
        work.mkdir(f"dir/d{number}")
        work.mkdir(f"dir/d{number}/sub")
        expected |= {f"dir/d{number}": None, f"dir/d{number}/sub": None}
        for name in ("file", "sub/file"):
            work.write(f"dir/d{number}/{name}", b"%d" % number)
            expected[f"dir/d{number}/{name}"] = b"%d" % number
    assert time.monotonic() - began < 10, "nobody waits for the server"
    assert work.names("dir/d3") == ["file", "sub"]
    assert work.read("dir/d3/sub/file") == b"3"
    assert stat.S_ISDIR(work.vfs.getattr("dir/d3").mode)
    server.faults.clear()
    wait_until_settled(work, expected)
    assert work.names("dir/d3") == ["file", "sub"]
    assert work.read("dir/d3/sub/file") == b"3"


def test_a_directory_made_in_an_outage_survives_a_remount(server: Server, work: Workspace) -> None:
    work.vfs.mkdir("dir", 0o2750, CALLER)
    work.vfs.utimens("dir", 1, 2_000_000_000)
    work.write("dir/file", NEW)
    before = work.vfs.getattr("dir")
    assert errno_from(work.vfs.rename, "dir", "moved"), "as any directory in an outage"
    work.remount()
    assert work.names("dir") == ["file"]
    after = work.vfs.getattr("dir")
    assert (after.mode, after.ino) == (before.mode, before.ino)
    server.faults.clear()
    wait_until_settled(work, {"dir": None, "dir/file": NEW})
    after = work.vfs.getattr("dir")
    assert (after.mode, after.ino) == (before.mode, before.ino)


def test_directories_of_an_outage_merge_and_the_jobs_files_are_copies(
    server: Server, work: Workspace
) -> None:
    """vfs/semantics.md 4, Keep both."""
    work.mkdir("dir")
    work.write("dir/mine", NEW)
    work.mkdir("name")
    work.write("name/mine", NEW)
    work.write("other", NEW)
    server.store.seed({"name": JOBS, "other": JOBS, "dir/jobs": JOBS})
    server.faults.clear()
    wait_until_settled(work)
    tree = visible(server)
    copies = {path.partition(".conflict-")[0] for path in tree if ".conflict-" in path}
    assert copies == {"name", "other"}
    assert [tree.pop(path) for path in list(tree) if ".conflict-" in path] == [JOBS, JOBS]
    same = {"dir": None, "dir/mine": NEW, "dir/jobs": JOBS}
    assert tree == {**same, "name": None, "name/mine": NEW, "other": NEW}
    eventually(lambda: work.names("dir") == ["jobs", "mine"])


def test_a_directory_made_in_an_outage_can_be_removed_during_it(server: Server, work: Workspace) -> None:
    work.vfs._write_back.queue.delay = 30.0
    work.mkdir("dir")
    work.write("dir/file", NEW)
    assert errno_from(work.vfs.rmdir, "dir") == errno.ENOTEMPTY
    work.vfs.unlink("dir/file")
    work.vfs.rmdir("dir")
    assert not work.exists("dir")
    server.faults.clear()
    wait_until_settled(work, {})


def test_a_directory_made_in_an_outage_can_be_discarded_with_its_content(
    server: Server, start: Start
) -> None:
    """vfs/semantics.md 4.12: `jobfs discard` resolves what does not get through."""
    work = start(timeout=1.0, ttl=0.1, write_back_delay=30)
    _go_down(server, work)
    work.mkdir("dir")
    work.mkdir("dir/below")
    work.write("dir/file", NEW)
    work.write("dir/open", NEW)
    with work.opening("dir/open", os.O_RDONLY):
        assert errno_from(work.vfs.discard, "dir") == errno.EBUSY
        assert work.read("dir/file") == NEW, "nothing was given up"
    given_up = dict(work.vfs.discard("dir"))
    assert set(given_up) == {"dir", "dir/below", "dir/file", "dir/open"}
    assert Path(given_up["dir/file"]).read_bytes() == NEW
    server.faults.clear()
    wait_until_settled(work)
    assert (work.names(), visible(server)) == ([], {})


@pytest.mark.parametrize(("kind", "again"), [("drop", True), ("drop_after", False)])
def test_a_new_file_with_a_started_save_is_renamed_and_unlinked_at_once(
    server: Server, start: Start, kind: str, again: bool
) -> None:
    """vfs/semantics.md 6, Bounds: a save that was begun is taken back, whether it has reached the server or not."""
    work = start(timeout=PATIENT, ttl=0.1, write_back_delay=0.0)
    work.names()
    server.faults.set_rate(kind, 1.0, on="create")  # type: ignore[arg-type]
    server.faults.set_rate("unavailable", 1.0)
    for name in ("first", "second", "third"):
        work.write(name, OLD)
    eventually(lambda: any(change.started for change in list(work.vfs._state.changes.values())))
    eventually(lambda: work.names() and work.vfs._namespace.is_unreachable)
    if again:
        for name in ("first", "second", "third"):
            work.write(name, NEW)
    began = time.monotonic()
    work.vfs.rename("first", "renamed")
    work.vfs.unlink("second")
    work.vfs.rename("third", "fourth")
    work.vfs.rename("fourth", "third")
    assert time.monotonic() - began < 2 * PATIENT, "nobody waits for the server: four would"
    content = NEW if again else OLD
    assert work.names() == ["renamed", "third"]
    assert [work.read(name) for name in ("renamed", "third")] == [content] * 2
    if kind == "drop":
        work.remount()
        assert [work.read(name) for name in ("renamed", "third")] == [content] * 2
    server.faults.clear()
    wait_until_settled(work, {"renamed": content, "third": content})


@pytest.mark.parametrize("name", ["file", "new"])
def test_atomic_saves_of_a_file_work_during_an_outage(server: Server, patient: Workspace, name: str) -> None:
    """vfs/semantics.md 6, Bounds: a rename over a file in an outage does not wait for a save of that file that was begun."""
    work = patient
    server.store.seed({"file": OLD}, age=60)
    assert work.read("file") == OLD
    _go_down(server, work)
    state = work.vfs._state
    for number in range(3):
        # By a name that reaches the server too, as those of most programs do.
        work.write(f"{name}.{number}", b"%d" % number)
        work.vfs.rename(f"{name}.{number}", name)
        assert work.read(name) == b"%d" % number
        eventually(lambda: any(change.attempts for change in list(state.changes.values())))
    server.faults.clear()
    wait_until_settled(work, {"file": OLD, name: b"2"})

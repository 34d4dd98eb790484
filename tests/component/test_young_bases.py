"""Saves of files that were changed a moment ago: timestamps prove nothing, and bytes decide (save/protocol.md R1)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.operations import start_next_mount
from tests.support.serverside import contents
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.api import health
from jobfs.emulator import Server

FIRST, SECOND, OURS = b"job's first", b"job, second", b"the user's own"


@pytest.fixture(autouse=True)
def one_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written on the server has one `updatedAt`, and it is young."""
    ticks = count((int(time.time()) + 10) * 1_000_000)  # for as long as a test takes
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: next(ticks))
    server.set(updated_resolution="seconds")


def truncate_and_write(work: Workspace | Mortal) -> None:
    work.write("file", OURS, flags=os.O_WRONLY | os.O_TRUNC)


def saved_by_the_next_mount(server: Server, home: Path, interfere: Callable[[], object]) -> None:
    """A mount is killed before it sends a file that was truncated and written, then `interfere` runs."""
    first = Mortal(server, home, Boundaries(), write_back_delay=30)
    first.start()
    truncate_and_write(first)
    first.boundaries.dead = True
    first.bury()
    interfere()
    with start_next_mount(first) as again:
        again.settle()


@pytest.mark.parametrize("sizes", ["present", "omitted"])
def test_bytes_the_job_wrote_after_an_unread_truncation_are_kept(
    server: Server, start: Start, sizes: str
) -> None:
    """vfs/semantics.md 4, Keep both: what nobody here has seen is never overwritten; R1: never guess."""
    server.set(sizes=sizes)
    server.store.seed({"file": FIRST})
    work = start(write_back_delay=30)
    assert work.names() == ["file"]
    truncate_and_write(work)
    server.store.write("file", SECOND)
    wait_until_settled(work)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([SECOND, OURS])


def test_bytes_the_job_wrote_between_two_mounts_are_kept(server: Server, tmp_path: Path) -> None:
    """vfs/semantics.md 4, Keep both, after a death: the next mount can't learn any more what was truncated."""
    server.set(sizes="omitted")
    server.store.seed({"file": FIRST})
    saved_by_the_next_mount(server, tmp_path / "home", lambda: server.store.write("file", SECOND))
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([SECOND, OURS])


@pytest.mark.parametrize("moves", ["no", "tree"])
def test_an_own_save_whose_answer_was_lost_is_no_conflict(server: Server, start: Start, moves: str) -> None:
    """save/protocol.md R2: base is H with the hash of the sent bytes."""
    server.set(move_touches=moves)
    work = start(request_lifetime=0.2)
    server.faults.fail_next("drop_after", on="update")
    work.write("file", b"before", fsync=True)
    truncate_and_write(work)
    wait_until_settled(work, {"file": OURS})


def edit_while_the_job_writes(server: Server, work: Workspace) -> None:
    """A program reads FIRST and changes its beginning in place; the job writes SECOND in between."""
    with work.opening("file", os.O_RDWR) as fh:
        assert work.vfs.read(fh, 100, 0) == FIRST
        server.store.write("file", SECOND)
        work.vfs.write(fh, b"JOB", 0)
    wait_until_settled(work)


def test_the_next_save_keeps_the_jobs_write_of_the_same_second(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R1: bytes decide on a whole second, whatever time has passed since."""
    jobs = b"the job's text"
    assert len(jobs) == len(OURS)
    server.set(move_touches="no")
    server.store.seed({"file": FIRST})
    work = start()
    assert work.read("file") == FIRST
    truncate_and_write(work)
    wait_until_settled(work)
    server.store.write("file", jobs)
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", -60.0)  # some seconds later
    work.write("file", SECOND, flags=os.O_WRONLY | os.O_TRUNC)
    wait_until_settled(work)
    assert contents(server) == sorted([FIRST, SECOND, jobs])


@pytest.mark.parametrize("date", ["", "Fri, 01 Jan 2100 00:00:00 GMT"], ids=["no Date", "Date ahead"])
def test_two_writes_within_a_second_are_two_versions_at_any_clock_skew(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    """save/protocol.md R1: the clock of `updatedAt` is 30 s behind this machine's, and behind that of `Date`."""
    now = int(time.time() - 30) * 1_000_000
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: now)
    parse = health._parse_http_date
    monkeypatch.setattr(health, "_parse_http_date", lambda value: parse(date))
    server.set(move_touches="no")
    server.store.seed({"file": FIRST})
    work = start()
    edit_while_the_job_writes(server, work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:], SECOND])


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_an_updated_at_that_is_not_a_time_proves_nothing(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """save/protocol.md R1: two versions may have the same."""
    monkeypatch.setattr("jobfs.api.models.parse_time", lambda text: 0)
    server.set(move_touches="no")
    server.store.seed({"file": FIRST})
    work = start(write_back_delay=30)
    if read:
        edit_while_the_job_writes(server, work)
    else:
        truncate_and_write(work)
        server.store.write("file", SECOND)
        wait_until_settled(work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:] if read else OURS, SECOND])


@pytest.mark.parametrize("rewritten", [False, True])
def test_the_next_mount_fetches_the_base_of_a_file_truncated_unread(
    server: Server, tmp_path: Path, rewritten: bool
) -> None:
    """save/protocol.md R1: where base's bytes are not known and a move changes `updatedAt`, A is downloaded first."""
    server.set(move_touches="item")
    server.store.seed({"file": FIRST}, age=60)
    rewrite = (lambda: server.store.write("file", SECOND)) if rewritten else (lambda: None)
    saved_by_the_next_mount(server, tmp_path / "home", rewrite)
    assert server.store.read("file") == OURS
    assert sorted(contents(server)) == sorted([OURS, *([SECOND] if rewritten else [])])


def test_an_item_written_in_the_same_second_is_read_before_its_deletion(server: Server, start: Start) -> None:
    """save/protocol.md R1: timestamps of whole seconds do not prove that it still is base."""
    server.store.seed({"file": FIRST})
    work = start(write_back_delay=30)
    work.write("file", OURS, flags=os.O_RDWR)
    server.store.write("file", SECOND)
    work.vfs.unlink("file")
    wait_until_settled(work, {"file": SECOND})

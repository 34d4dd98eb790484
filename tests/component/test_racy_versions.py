"""Saves of files whose version is racy: timestamps prove nothing, and bytes decide (save/protocol.md R1)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clocks import Clock
from tests.support.serverside import contents
from tests.support.workspaces import Start, Workspace, let_time_pass, wait_until_settled

from jobfs.emulator import EmulatorConfig, Server, running

FIRST, SECOND, OURS = b"job's first", b"job, second", b"the user's own"


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()))


@pytest.fixture
def server(tmp_path: Path, clock: Clock) -> Iterator[Server]:
    """All that is written on it has one `updatedAt`, which is recent, and moves keep it."""
    with running(EmulatorConfig(clock=clock), tmp_path / "server") as server:
        server.set(updated_resolution="seconds", move_touches="no")
        server.store.seed({"file": FIRST})
        yield server


def truncate_and_write(work: Workspace, content: bytes = OURS) -> None:
    work.write("file", content, flags=os.O_WRONLY | os.O_TRUNC)


def edit_while_the_job_writes(server: Server, work: Workspace) -> None:
    """A program reads FIRST and changes its beginning in place; the job writes SECOND in between, in the same second."""
    with work.opening("file", os.O_RDWR) as fh:
        assert work.vfs.read(fh, 100, 0) == FIRST
        skew = server.behaviour.clock_skew
        server.set(clock_skew=0.0)
        server.store.write("file", SECOND)
        server.set(clock_skew=skew)
        work.vfs.write(fh, b"JOB", 0)
    wait_until_settled(work)


def test_the_next_save_keeps_the_jobs_write_of_the_same_second(server: Server, start: Start) -> None:
    """save/protocol.md R1: bytes decide on a whole second, whatever time has passed since."""
    jobs = b"the job's text"
    assert len(jobs) == len(OURS)
    work = start()
    assert work.read("file") == FIRST
    truncate_and_write(work)
    wait_until_settled(work)
    server.store.write("file", jobs)
    let_time_pass(work, 60)
    truncate_and_write(work, SECOND)
    wait_until_settled(work)
    assert contents(server) == sorted([FIRST, SECOND, jobs])


@pytest.mark.parametrize("seconds", [30, 2_000_000_000], ids=["30 seconds", "a lifetime"])
def test_two_writes_within_a_second_are_two_versions_at_any_clock_skew(
    server: Server, start: Start, seconds: int
) -> None:
    """save/protocol.md R1: the clock of `updatedAt` is so far behind that of `Date`."""
    server.set(clock_skew=seconds)
    work = start()
    edit_while_the_job_writes(server, work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:], SECOND])


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_an_updated_at_that_is_not_a_time_proves_nothing(server: Server, start: Start, read: bool) -> None:
    """save/protocol.md R1: two versions may have the same."""
    server.faults.set_rate("odd_item", 1.0, field="updatedAt", value='"just now"')
    work = start(write_back_delay=30)
    if read:
        edit_while_the_job_writes(server, work)
    else:
        truncate_and_write(work)
        server.store.write("file", SECOND)
        wait_until_settled(work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:] if read else OURS, SECOND])

"""Saves of files whose version is racy: timestamps prove nothing, and bytes decide (save/protocol.md R1)."""

from __future__ import annotations

import os
import time
from itertools import count

import pytest
from tests.support.serverside import contents
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.api import health
from jobfs.emulator import Server

FIRST, SECOND, OURS = b"job's first", b"job, second", b"the user's own"


@pytest.fixture(autouse=True)
def one_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written on the server has one `updatedAt`, which is recent, and moves keep it."""
    ticks = count((int(time.time()) + 10) * 1_000_000)  # for as long as a test takes
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: next(ticks))
    server.set(updated_resolution="seconds", move_touches="no")
    server.store.seed({"file": FIRST})


def truncate_and_write(work: Workspace, content: bytes = OURS) -> None:
    work.write("file", content, flags=os.O_WRONLY | os.O_TRUNC)


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
    work = start()
    assert work.read("file") == FIRST
    truncate_and_write(work)
    wait_until_settled(work)
    server.store.write("file", jobs)
    monkeypatch.setattr("jobfs.save.context.RACY_SECONDS", -60.0)  # some seconds later
    truncate_and_write(work, SECOND)
    wait_until_settled(work)
    assert contents(server) == sorted([FIRST, SECOND, jobs])


@pytest.mark.parametrize("date", ["", "Fri, 01 Jan 2100 00:00:00 GMT"], ids=["no Date", "Date ahead"])
def test_two_writes_within_a_second_are_two_versions_at_any_clock_skew(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, date: str
) -> None:
    """save/protocol.md R1: the clock of `updatedAt` is 30 s behind this machine's, and behind that of `Date`."""
    now = int(time.time() - 30) * 1_000_000
    monkeypatch.setattr(type(server.store._store), "now_us", lambda store: now)
    server.store.write("file", FIRST)
    parse = health._parse_http_date
    monkeypatch.setattr(health, "_parse_http_date", lambda value: parse(date))
    work = start()
    edit_while_the_job_writes(server, work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:], SECOND])


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_an_updated_at_that_is_not_a_time_proves_nothing(
    server: Server, start: Start, monkeypatch: pytest.MonkeyPatch, read: bool
) -> None:
    """save/protocol.md R1: two versions may have the same."""
    monkeypatch.setattr("jobfs.api.models.parse_time", lambda text: 0)
    work = start(write_back_delay=30)
    if read:
        edit_while_the_job_writes(server, work)
    else:
        truncate_and_write(work)
        server.store.write("file", SECOND)
        wait_until_settled(work)
    assert contents(server) == sorted([b"JOB" + FIRST[3:] if read else OURS, SECOND])

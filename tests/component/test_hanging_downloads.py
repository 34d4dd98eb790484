"""Saves beside large downloads that take for ever: nothing that a save waits for shares a pool with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.support.serverside import visible
from tests.support.waiting import PATIENCE, eventually
from tests.support.workspaces import Start, Workspace

from jobfs.api.deadline import limit_time
from jobfs.emulator import Server

OLD, NEW = b"the old content", b"what the user wrote"
MANY, LARGE = 20, b"-" * (2 << 20)


@pytest.fixture
def work(server: Server, start: Start) -> Workspace:
    large = {f"large{number}": LARGE for number in range(MANY)}
    server.store.seed({"file": OLD, **large}, age=60)
    return start(timeout=3 * PATIENCE)


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """No body of a large file comes."""
    server.faults.set_rate("slow", 1.0, on="download", path="large*", delay=600)
    yield
    server.faults.clear()


def overwrite(work: Workspace, path: str, *, fsync: bool = False) -> None:
    """Overwrite a file that no program has read: its old bytes are fetched before it is set aside."""
    with limit_time(PATIENCE):
        work.write(path, NEW, fsync=fsync, flags=os.O_WRONLY | os.O_TRUNC)


def open_for_editing(work: Workspace, opened: ExitStack) -> None:
    for number in range(MANY):
        opened.enter_context(work.opening(f"large{number}", os.O_RDWR))
    eventually(lambda: work.server.faults.injected_count, "they are on their way")


def overwrite_unread(work: Workspace, opened: ExitStack) -> None:
    for number in range(MANY):
        overwrite(work, f"large{number}")
    queue = work.write_back.queue
    eventually(
        lambda: work.server.faults.injected_count and queue._busy == queue._most,
        "as many as may run are on their way",
    )
    opened.callback(work.write_back.client.abort_requests)


@pytest.mark.parametrize("use", [open_for_editing, overwrite_unread])
def test_fsync_waits_for_no_large_file_that_hangs(
    server: Server, work: Workspace, use: Callable[[Workspace, ExitStack], None]
) -> None:
    """vfs/semantics.md 4.13: nor do downloads. The bytes of a base are read on a thread that no other save waits for."""
    with ExitStack() as opened, hanging(server):
        use(work, opened)
        before = server.log.count("download")
        overwrite(work, "file", fsync=True)
        assert visible(server)["file"] == NEW
        assert server.log.count("download") > before, "it had to read what it replaces"

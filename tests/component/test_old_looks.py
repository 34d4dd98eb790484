"""A look that justifies a request may grow old while the request waits for its connection: what the job does then stays."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.crowds import take_all_connections
from tests.support.programs import PROGRAMS, Program, distinct, run_through
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, Workspace, wait_until_settled

from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.nodes import Permission

OLD, NEW, JOBS = b"the old content", b"what the user wrote", b"the job's other"
#: Seconds after which a look at what a program names is too old (R8), and more.
NAMED = 1.1


@contextmanager
def waiting(
    work: Workspace, part: object, method: str, job: Callable[[], object], wait: float = 0.0
) -> Iterator[None]:
    """In this block, `method` of `part` finds no free connection after its look until the job has acted, `wait` seconds later."""
    client = work.vfs._write_back.client
    called: list[str] = []
    real = getattr(part, method)

    def crowded(*arguments: Any, **more: Any) -> Any:
        if called:
            return real(*arguments, **more)
        with take_all_connections(client) as others, ThreadPoolExecutor(1) as threads:
            called.append(method)
            acting = threads.submit(act, others, time.monotonic())
            try:
                return real(*arguments, **more)
            finally:
                acting.result()

    def act(others: Any, looked: float) -> None:
        try:
            others.wait_until_queued()
            bound = max(wait, 4 * max(0.05, client.health.latency or 0.0))
            eventually(lambda: time.monotonic() > looked + bound, "the look is old")
            job()
        finally:
            others.disperse()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, method, crowded)
        yield
        eventually(lambda: called, f"{method} was called")


@pytest.fixture(params=[1, 4])
def work(request: pytest.FixtureRequest, server: Server, start: Start) -> Workspace:
    """With one connection, too: what holds it must wait for no other."""
    server.store.seed({"file": OLD, "other": NEW}, age=60)
    work = start(max_connections=request.param)
    assert work.read("file") == OLD
    return work


def rename_away(server: Server) -> Callable[[], object]:
    return lambda: server.store.move("file", "elsewhere")


def edit(work: Workspace) -> None:
    with work.opening("file") as fh:
        work.vfs.ftruncate(fh, 0)
        work.vfs.write(fh, NEW, 0)
        work.vfs.fsync(fh)


WRITERS = distinct(each for each in PROGRAMS if each.writes)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_set_aside_that_waited_does_not_take_a_file_from_its_new_name(
    server: Server, work: Workspace, writer: Program
) -> None:
    """save/protocol.md R8: when the set-aside is sent, the look is fresh."""
    replace = work.vfs._write_back.replacer
    with waiting(work, replace, "_try_set_aside", rename_away(server)):
        run_through(work, writer, "file", NEW)
    wait_until_settled(work, {"file": OLD + NEW, "elsewhere": OLD, "other": NEW})


def test_an_unchanged_file_is_set_aside_after_one_more_look(server: Server, work: Workspace) -> None:
    """save/protocol.md R8: the look is repeated on the connection that is held, and the request follows."""
    replace = work.vfs._write_back.replacer
    with waiting(work, replace, "_try_set_aside", server.log.clear):
        edit(work)
    wait_until_settled(work, {"file": NEW, "other": NEW})
    sent = [entry.operation for entry in server.log.entries() if entry.operation != "list"]
    assert sent[:3] == ["get", "update", "update"]


def test_a_file_renamed_while_its_unlink_waited_is_not_deleted(server: Server, work: Workspace) -> None:
    """save/protocol.md R10, vfs/semantics.md 4.32: the id that stood at the path a second before the delete is sent."""
    with waiting(work, work.vfs._write_back.items, "_delete_observed", rename_away(server), NAMED):
        work.vfs.unlink("file")
    wait_until_settled(work, {"elsewhere": OLD, "other": NEW})
    assert not work.exists("file")


def test_bytes_the_job_writes_while_a_delete_by_version_waits_are_kept(
    server: Server, work: Workspace
) -> None:
    """save/protocol.md R8: what was decided about a version is decided again."""
    work.vfs._write_back.queue.delay = 30.0
    work.write("file", NEW, flags=os.O_RDWR)
    with waiting(
        work, work.vfs._write_back.items, "_delete_observed", lambda: server.store.write("file", JOBS)
    ):
        work.vfs.unlink("file")
    wait_until_settled(work, {"file": JOBS, "other": NEW})


@pytest.mark.parametrize("content", [JOBS, OLD])
def test_bytes_written_to_an_aside_while_its_delete_waited_are_kept(
    server: Server, work: Workspace, content: bytes
) -> None:
    """save/protocol.md R7, R8: another version than the one that was judged is judged again."""

    def overwrite() -> None:
        (aside,) = hidden(server)
        server.store.write(aside, content)

    with waiting(work, work.vfs._write_back.cleanup, "_delete_if_unchanged", overwrite):
        edit(work)
        wait_until_settled(work)
    found = sorted(data for data in visible(server).values() if data is not None)
    assert found == sorted([NEW, NEW, *([JOBS] if content == JOBS else [])])


@pytest.mark.parametrize("change", ["rename", "chmod"])
def test_a_file_renamed_while_its_attribute_change_waits_is_left_alone(
    server: Server, work: Workspace, change: str
) -> None:
    """save/protocol.md R8: nothing is sent, and the program gets ENOENT."""
    calls = {
        "rename": lambda: work.vfs.rename("file", "new"),
        "chmod": lambda: work.vfs.chmod("file", 0o444),
    }
    items = work.vfs._write_back.items
    with (
        waiting(work, items, "update_item", rename_away(server), NAMED),
        pytest.raises(JobfsError) as caught,
    ):
        calls[change]()
    assert caught.value.errno == errno.ENOENT
    wait_until_settled(work, {"elsewhere": OLD, "other": NEW})
    (item,) = (item for item in server.store.items() if item.path == "elsewhere")
    assert item.permission == Permission.READ_WRITE


def test_a_source_renamed_while_its_rename_over_a_file_waits_is_left_alone(
    server: Server, work: Workspace
) -> None:
    """save/protocol.md R8: what was set aside for it goes back."""
    moved = lambda: server.store.move("other", "elsewhere")  # noqa: E731
    with (
        waiting(work, work.vfs._write_back.replacer, "_try_move_to_target", moved, NAMED),
        pytest.raises(JobfsError) as caught,
    ):
        work.vfs.rename("other", "file")
    assert caught.value.errno == errno.ENOENT
    wait_until_settled(work, {"file": OLD, "elsewhere": NEW})


def test_a_directory_renamed_while_its_removal_waits_is_left_alone(server: Server, work: Workspace) -> None:
    """save/protocol.md R12: it is moved to a hidden name only if it still is at its path."""
    server.store.seed({"dir": None}, age=60)
    eventually(lambda: work.exists("dir"))
    moved = lambda: server.store.move("dir", "kept")  # noqa: E731
    with (
        waiting(work, work.vfs._write_back.items, "update_item", moved, NAMED),
        pytest.raises(JobfsError) as caught,
    ):
        work.vfs.rmdir("dir")
    assert caught.value.errno == errno.ENOENT
    wait_until_settled(work, {"file": OLD, "other": NEW, "kept": None})

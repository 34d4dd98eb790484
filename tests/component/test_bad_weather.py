"""With one writer there is a conflict copy only where answers were lost, and no content is ever missing (save/protocol.md R1)."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.files import errno_from
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.api.deadline import within
from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.state import Change

OLD, NEW = b"the old content", b"new"
#: Ways in which requests fail, each as often.
WEATHER = ("unavailable", "error", "error_after", "drop", "drop_after", "cut")
UNANSWERED = ("drop", "drop_after", "cut")
FAILING = 0.2
FILES, SAVES, WRITERS = 4, 15, 3


def _save(work: Workspace, chance: random.Random, name: str, content: bytes) -> None:
    """As programs do it: in place, in part, or by a temporary file that is renamed over."""
    way = chance.randrange(4)
    if way == 3:
        work.write(f"{name}.tmp", content, fsync=chance.random() < 0.5)
        work.vfs.rename(f"{name}.tmp", name)
        return
    if way == 2 and work.exists(name):
        fh = work.vfs.open(name, os.O_RDWR).fh
        work.vfs.read(fh, 100, 0)
        work.vfs.ftruncate(fh, 0)
    else:
        fh = work.opened(name)
    try:
        work.vfs.write(fh, content, 0)
        if way:
            work.vfs.fsync(fh)
    finally:
        work.vfs.release(fh)


def _write_for_a_while(work: Workspace, writer: int, last: dict[str, set[bytes]]) -> None:
    chance = random.Random(writer)
    for number in range(SAVES):
        name = f"w{writer}-{chance.randrange(FILES)}"
        content = b"%d %d " % (writer, number) * chance.randrange(1, 200)
        try:
            _save(work, chance, name, content)
        except JobfsError:
            # It was told, and may have been done all the same.
            last[name] |= {content}
        else:
            last[name] = {content}


def _work_in(server: Server, work: Workspace) -> dict[str, set[bytes]]:
    """Some programs write while requests fail; then all is well again, and sent. Returns what each file may hold."""
    names = [f"w{writer}-{number}" for writer in range(WRITERS) for number in range(FILES)]
    work.names()
    for kind in WEATHER:
        server.faults.rate(kind, FAILING / len(WEATHER), delay=0.2)  # type: ignore[arg-type]
    last = {name: {OLD} for name in names}
    writers = [
        threading.Thread(target=_write_for_a_while, args=(work, number, last)) for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert server.faults.struck > 20
    server.faults.clear()
    work.drain()
    eventually(lambda: work.names() is not None and not hidden(server), lambda: hidden(server))
    return last


@pytest.fixture
def seeded(server: Server, start: Callable[..., Workspace]) -> Workspace:
    names = [f"w{writer}-{number}" for writer in range(WRITERS) for number in range(FILES)]
    server.store.seed(dict.fromkeys(names, OLD), age=60)
    return start(timeout=2.0, request_lifetime=0.5, write_back_delay=0.05, ttl=0.3)


@pytest.mark.parametrize(("touches", "resolution"), [("no", "seconds"), ("tree", "milliseconds")])
def test_one_mount_that_writes_makes_a_conflict_copy_for_ten_lost_answers_at_most(
    server: Server, seeded: Workspace, touches: str, resolution: str
) -> None:
    server.set(move_touches=touches, updated_resolution=resolution)
    last = _work_in(server, seeded)
    tree = visible(server)
    lost = [entry for entry in server.log.changes() if entry.fault in UNANSWERED]
    assert sum(".conflict-" in path for path in tree) <= -(-len(lost) // 10)
    assert not [path for path in tree if ".recovered-" in path]
    for name, contents in last.items():
        assert tree[name] in contents


def test_what_can_not_be_read_for_now_is_not_unknown(server: Server, start: Callable[..., Workspace]) -> None:
    """save/protocol.md R1: a read that failed is tried again before it counts as unknown."""
    server.store.seed({"file": OLD}, age=60)
    work = start(timeout=3.0)
    work.names()
    server.faults.rate("unavailable", 1.0, on="download")
    with work.closing(work.opened("file")) as fh:
        work.vfs.write(fh, NEW, 0)
        with within(2.0):
            assert errno_from(work.vfs.fsync, fh)
        assert visible(server) == {"file": OLD}
    server.faults.clear()
    settled(work, {"file": NEW})


def test_a_set_aside_that_was_carried_out_late_is_known_as_ours(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """save/protocol.md, The steps, set aside: a server may refuse to move an item to the name that it has already."""
    server.store.seed({"file": OLD}, age=60)

    def late() -> None:
        (change,) = work.state.journal.load(Change)
        (aside,) = change.asides
        server.store.move("file", aside.path)
        server.faults.next("error", on="update", status=400, reason="Path already exists")

    work = mortal(At("before update", 2, late))
    server.faults.next("drop", on="update")
    work.work(lambda: work.write("file", NEW, fsync=True))
    work.settle()
    assert work.boundaries.struck
    assert visible(server) == {"file": NEW}

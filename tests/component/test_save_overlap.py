"""Promote is sent before its set-aside is answered (R13): in which order the two arrive, and on which servers.

Ordinary tests never overlap, for a round trip to the local server takes too little time. Here each save that may overlap does,
and its promote is sent at once. Killed, unanswered, interfered with: test_save_boundaries.py, test_save_interference.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support.overlaps import Overlaps, counted_overlaps
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, wait_until_settled

from jobfs.api.client import Client
from jobfs.emulator import Server
from jobfs.emulator.records import Refused
from jobfs.emulator.workspace import Workspace as ServerSide
from jobfs.state.server import KnownServer, ServerFacts

OLD, NEW = b"the old content", b"what the user has written"


def save(work: Workspace, content: bytes = NEW, path: str = "dir/file.txt") -> None:
    """A save in place, up to where fsync returns."""
    with work.opening(path) as fh:
        work.vfs.write(fh, content, 0)
        work.vfs.fsync(fh)


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a set-aside ("aside") or its promote ("promote") carried out first; the other is sent only then.

    No set-aside is answered before its promote was due. `words`: the reason that the server gives for refusing a promote.
    """
    send, carry_out = Client.update, ServerSide.update
    carried_out, promoting = threading.Event(), threading.Event()

    def first(which: str, words: str = "Path already exists") -> None:
        def held_back(self: Client, item_id: str, *, path: str | None = None, **more: Any) -> Any:
            is_aside = path is not None and ".jobfs-" in path
            if not is_aside:
                promoting.set()
            if is_aside is not (which == "aside"):
                if more.get("connection"):
                    more["connection"].sent_event.set()  # it is slow behind its socket
                eventually(carried_out.is_set)
            reply = send(self, item_id, path=path, **more)
            eventually(promoting.is_set)
            return reply

        def carried(self: ServerSide, *arguments: Any) -> Any:
            try:
                return carry_out(self, *arguments)
            except Refused:
                raise Refused(words) from None
            finally:
                carried_out.set()

        monkeypatch.setattr(Client, "update", held_back)
        monkeypatch.setattr(ServerSide, "update", carried)

    return first


def test_the_promote_takes_the_name_right_after_the_set_aside(
    server: Server, overlaps: Overlaps, work: Workspace, first: Callable[..., None]
) -> None:
    """save/protocol.md R13: it succeeds where T is free by then."""
    server.store.seed({"dir/file.txt": OLD}, age=60)
    first("aside")
    save(work)
    wait_until_settled(work, {"dir": None, "dir/file.txt": NEW})
    assert overlaps == {"placed": 1}
    assert [entry.operation for entry in server.log.changes()] == ["create", "update", "update", "delete"]


@pytest.mark.parametrize("words", ["Path already exists", "Conflict of some kind"])
def test_a_promote_that_arrives_too_early_is_sent_again(
    server: Server, overlaps: Overlaps, work: Workspace, first: Callable[..., None], words: str
) -> None:
    """save/protocol.md R13: a refusal says that it came too early, no more, and its reason is not looked into."""
    server.store.seed({"dir/file.txt": OLD}, age=60)
    first("promote", words)
    server.log.clear()
    save(work)
    looks = server.log.count("find")
    wait_until_settled(work, {"dir": None, "dir/file.txt": NEW})
    assert overlaps == {"PathExistsError" if words.startswith("Path") else "BadRequestError": 1}
    changes = [entry.operation for entry in server.log.changes()]
    assert changes == ["create", "update", "update", "update", "delete"]
    assert looks == 1, "by the save"


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("work_ms", [0, 5, 20, 50])
def test_overlapping_saves_succeed_however_the_server_checks_and_moves(
    server: Server, overlaps: Overlaps, work: Workspace, locked: bool, work_ms: int
) -> None:
    """save/protocol.md R13: with and without a lock, and with time between check and move."""
    server.set(move_locked=locked, move_work=work_ms)
    server.store.seed({f"dir/{number}.txt": OLD for number in range(4)}, age=60)

    def save_thrice(number: int) -> None:
        for version in range(3):
            save(work, b"version %d of %d " % (version, number), f"dir/{number}.txt")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save_thrice, range(4)))
    wait_until_settled(work)
    last = {f"dir/{number}.txt": b"version 2 of %d " % number for number in range(4)}
    assert visible(server) == {"dir": None, **last}
    # A save whose look grew old while it waited for its connections begins again, without an overlap.
    assert overlaps.total() >= 6


@pytest.mark.parametrize("existing", ["reject", "replace"])
def test_saves_overlap_only_once_a_refusal_was_seen(
    server: Server, monkeypatch: pytest.MonkeyPatch, start: Callable[..., Workspace], existing: str
) -> None:
    """save/protocol.md R13: on a server that replaces, a version that nobody has looked at would be deleted."""
    overlaps = counted_overlaps(monkeypatch, knows=False)
    server.set(move_existing=existing)
    server.store.seed({"dir/file.txt": OLD}, age=60)
    work = start()
    for number in range(4):
        save(work, b"version %d" % number)
    eventually(lambda: facts_of(work).moves_refused is not None)
    assert overlaps.total() == 0
    for number in range(4, 8):
        save(work, b"version %d" % number)
    wait_until_settled(work, {"dir": None, "dir/file.txt": b"version 7" + OLD[9:]})
    assert facts_of(work).moves_refused is (existing == "reject")
    assert bool(overlaps.total()) is (existing == "reject")


def facts_of(work: Workspace) -> ServerFacts:
    """What a later mount would know of the server."""
    return KnownServer(work.settings.state_dir, work.server.url).facts

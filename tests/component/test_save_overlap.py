"""Promote is sent before its set-aside is answered: killed, unanswered, refused, interfered with, nothing is lost (R13).

Ordinary tests never overlap, for a round trip to the local server takes too little time. Here each save that may overlap does,
and its promote is sent at once: the server carries the two out in either order.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.component import test_save_boundaries as boundaries
from tests.component import test_save_interference as interfered
from tests.support.interferences import FAULTS, Interference, of
from tests.support.operations import OPERATIONS, Operation
from tests.support.overlaps import force_overlap
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, wait_until_settled

from jobfs.api.client import Client
from jobfs.emulator import Server
from jobfs.emulator.records import Refused
from jobfs.emulator.workspace import Workspace as ServerSide
from jobfs.save import overlap
from jobfs.state.server import KnownServer, ServerFacts

OLD, NEW = b"the old content", b"what the user has written"
#: The operations that set an item aside.
REPLACING = [
    each
    for each in OPERATIONS
    if each.name.startswith(
        ("save in place", "truncate", "rename over", "unlink while it is placed", "chmod")
    )
]
#: What the network does to the pair of requests of every operation; the rest only to those of the first.
LOSES = ("drops a request", "loses an answer", "loses two answers")
by_name = pytest.mark.parametrize("operation", REPLACING, ids=lambda operation: operation.name)


class Sent(Counter[str]):
    """How many promotes were sent before their set-asides were answered, by their outcomes."""

    def note(self, outcomes: tuple[overlap.Outcome, overlap.Outcome | None]) -> None:
        if outcomes[1] is not None:
            error = outcomes[1].exception()
            self["placed" if error is None else type(error).__name__] += 1


@pytest.fixture
def knows() -> bool:
    """True if the server was asked whether it refuses moves onto items."""
    return True


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch, knows: bool) -> Sent:
    """Overlaps wherever that is allowed; counts them."""
    sent, send = Sent(), overlap.OverlapSender.send_pair

    def noted(self: overlap.OverlapSender, *arguments: Any) -> tuple[overlap.Outcome, overlap.Outcome | None]:
        outcomes = send(self, *arguments)
        sent.note(outcomes)
        return outcomes

    force_overlap(monkeypatch.setattr, knows=knows)
    monkeypatch.setattr(overlap.OverlapSender, "send_pair", noted)
    return sent


@by_name
def test_an_overlapping_operation_killed_at_any_boundary_is_consistent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Operation, sent: Sent
) -> None:
    """save/protocol.md R13: nothing new is in the journal, and recovery is the same."""
    ended = boundaries.test_an_operation_leaves_old_or_new_content_wherever_its_mount_ends
    ended(server, tmp_path, monkeypatch, operation, boundaries.KILLS)
    assert sent.total()


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        (operation, act)
        for operation in REPLACING
        for act in FAULTS
        if act.name in LOSES or (operation is REPLACING[0] and not act.is_slow)
    ],
    ids=lambda value: value.name,
)
def test_an_overlapping_operation_succeeds_under_any_network_fault(
    server: Server, tmp_path: Path, operation: Operation, act: Interference, sent: Sent
) -> None:
    """save/protocol.md R13: a promote without an answer is judged by R6, a set-aside without one waits as R7 says."""
    boundaries.test_an_operation_succeeds_under_any_network_fault(server, tmp_path, operation, act)
    # What a program reads is looked at once more, and a save that begins again after a lost answer need not overlap.
    assert sent.total() or operation.name == "rename over an open file"


@pytest.mark.parametrize(
    ("act", "move_touches"),
    [(act, "item") for act in of("job")] + [(act, "no") for act in of("job") if act.writes],
    ids=str,
)
def test_an_overlapping_save_keeps_all_contents_whatever_interferes(
    server: Server, tmp_path: Path, act: Interference, move_touches: str, sent: Sent
) -> None:
    """vfs/semantics.md 4.20, save/protocol.md R13: promote counts by its own answer alone."""
    # How often the job meets the moment in which T is absent is a matter of luck: it is short.
    server.set(move_touches=move_touches)
    passed, _ = interfered.everywhere(server, tmp_path, act)
    assert passed.surround(4), passed.passed
    assert sent.total()


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


def saved(work: Workspace, content: bytes = NEW) -> None:
    """A save in place, up to where fsync returns."""
    with work.opening("dir/file.txt") as fh:
        work.vfs.write(fh, content, 0)
        work.vfs.fsync(fh)


def test_the_promote_takes_the_name_right_after_the_set_aside(
    server: Server, work: Workspace, sent: Sent, first: Callable[..., None]
) -> None:
    """save/protocol.md R13: it succeeds where T is free by then."""
    server.store.seed({"dir/file.txt": OLD}, age=60)
    first("aside")
    saved(work)
    wait_until_settled(work, {"dir": None, "dir/file.txt": NEW})
    assert sent == {"placed": 1}
    assert [entry.operation for entry in server.log.changes()] == ["create", "update", "update", "delete"]


@pytest.mark.parametrize("words", ["Path already exists", "Conflict of some kind"])
def test_a_promote_that_arrives_too_early_is_sent_again(
    server: Server, work: Workspace, sent: Sent, first: Callable[..., None], words: str
) -> None:
    """save/protocol.md R13: a refusal says that it came too early, no more, and its reason is not looked into."""
    server.store.seed({"dir/file.txt": OLD}, age=60)
    first("promote", words)
    server.log.clear()
    saved(work)
    looks = server.log.count("find")
    wait_until_settled(work, {"dir": None, "dir/file.txt": NEW})
    assert sent == {"PathExistsError" if words.startswith("Path") else "BadRequestError": 1}
    changes = [entry.operation for entry in server.log.changes()]
    assert changes == ["create", "update", "update", "update", "delete"]
    assert looks == 1, "by the save"


@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("work_ms", [0, 5, 20, 50])
def test_overlapping_saves_succeed_however_the_server_checks_and_moves(
    server: Server, work: Workspace, sent: Sent, locked: bool, work_ms: int
) -> None:
    """save/protocol.md R13: with and without a lock, and with time between check and move."""
    server.set(move_locked=locked, move_work=work_ms)
    server.store.seed({f"dir/{number}.txt": OLD for number in range(4)}, age=60)

    def save(number: int) -> None:
        for version in range(3):
            with work.opening(f"dir/{number}.txt") as fh:
                work.vfs.write(fh, b"version %d of %d " % (version, number), 0)
                work.vfs.fsync(fh)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, range(4)))
    last = {f"dir/{number}.txt": b"version 2 of %d " % number for number in range(4)}
    wait_until_settled(work)
    assert {path: content[:15] for path, content in visible(server).items() if content} == {
        path: content[:15] for path, content in last.items()
    }
    # A save whose look grew old while it waited for its connections begins again, without an overlap.
    assert sent.total() >= 6


class TestAsked:
    """Of a server of which nothing is known yet."""

    @pytest.fixture
    def knows(self) -> bool:
        return False

    @pytest.mark.parametrize("existing", ["reject", "replace"])
    def test_saves_overlap_only_once_a_refusal_was_seen(
        self, server: Server, work: Workspace, sent: Sent, existing: str
    ) -> None:
        """save/protocol.md R13: on a server that replaces, a version that nobody has looked at would be deleted."""
        server.set(move_existing=existing)
        server.store.seed({"dir/file.txt": OLD}, age=60)
        for number in range(4):
            saved(work, b"version %d" % number)
        eventually(lambda: facts_of(work).moves_refused is not None)
        assert sent.total() == 0
        for number in range(4, 8):
            saved(work, b"version %d" % number)
        wait_until_settled(work, {"dir": None, "dir/file.txt": b"version 7" + OLD[9:]})
        assert facts_of(work).moves_refused is (existing == "reject")
        assert bool(sent.total()) is (existing == "reject")


def facts_of(work: Workspace) -> ServerFacts:
    """What a later mount would know of the server."""
    return KnownServer(work.settings.state_dir, work.server.url).facts

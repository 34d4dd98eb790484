"""Promote is sent before its set-aside is answered: killed, unanswered, refused, interfered with, nothing is lost (R13).

Ordinary tests never overlap, for a round trip to the local server takes too little time. Here each save that may overlap does,
and its promote is sent at once: the server carries the two out in either order.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.component import test_save_boundaries as killed
from tests.component import test_save_interference as interfered
from tests.support.operations import OPERATIONS, Operation
from tests.support.serverside import contents, visible
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace, settled

from jobfs.emulator import Server
from jobfs.save import overlap
from jobfs.state.server import KnownServer

OLD, NEW, JOBS = b"the old content", b"what the user has written", b"what a job made"
#: The operations that set an item aside.
REPLACING = [
    each
    for each in OPERATIONS
    if each.name.startswith(
        ("save in place", "truncate", "rename over", "unlink while it is placed", "chmod")
    )
]
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
    sent, send, init = Sent(), overlap.Overlap.send, KnownServer.__init__

    def noted(self: overlap.Overlap, *arguments: Any) -> tuple[overlap.Outcome, overlap.Outcome | None]:
        outcomes = send(self, *arguments)
        sent.note(outcomes)
        return outcomes

    def known(self: KnownServer, *arguments: Any) -> None:
        init(self, *arguments)
        if knows:
            self.learn(moves_refused=True)

    monkeypatch.setattr(overlap, "_WORTH", 0.0)
    monkeypatch.setattr(overlap.Stagger, "seconds", lambda self, round_trip: 0.0)
    monkeypatch.setattr(overlap.Overlap, "send", noted)
    monkeypatch.setattr(KnownServer, "__init__", known)
    return sent


@by_name
def test_an_overlapping_operation_killed_at_any_boundary_ends_whole(
    server: Server, tmp_path: Path, operation: Operation, sent: Sent
) -> None:
    """save/protocol.md R13: nothing new is in the journal, and recovery is the same."""
    killed.test_an_operation_killed_at_any_boundary_ends_with_old_or_new_content_whole(
        server, tmp_path, operation
    )
    assert sent.total()


@by_name
@pytest.mark.parametrize("lost", killed.LOST, ids=str)
def test_an_overlapping_operation_ends_right_whatever_answers_are_lost(
    server: Server, tmp_path: Path, operation: Operation, lost: tuple[str, int], sent: Sent
) -> None:
    """save/protocol.md R13: a promote without an answer is judged by R6, a set-aside without one waits as R7 says."""
    killed.test_an_operation_ends_right_whatever_answers_are_lost(server, tmp_path, operation, *lost)
    assert sent.total()


@pytest.mark.parametrize("move_touches", ["item", "no"])
@pytest.mark.parametrize(
    "act",
    [
        interfered.overwrite,
        interfered.replace,
        interfered.delete,
        interfered.create_again,
        interfered.rename_away,
    ],
)
def test_whenever_the_job_interferes_with_an_overlapping_save_both_are_kept(
    server: Server, tmp_path: Path, act: Callable[..., None], move_touches: str, sent: Sent
) -> None:
    """vfs/semantics.md 4.20, save/protocol.md R13: promote counts by its own answer alone."""
    interfered.test_whenever_the_job_interferes_both_contents_are_kept(server, tmp_path, act, move_touches)
    assert sent.total()


def test_whenever_another_mount_overlaps_its_save_of_the_same_file_both_are_kept(
    server: Server, tmp_path: Path, sent: Sent
) -> None:
    """vfs/semantics.md 6.12, save/protocol.md R13."""
    interfered.test_whenever_another_mount_saves_the_same_file_both_contents_are_kept(server, tmp_path)
    assert sent.total()


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Holds back the set-aside or the promote of each save, until the other was carried out: give the one that comes first."""
    from jobfs.emulator.workspace import Workspace as ServerSide

    update, order = ServerSide.update, [""]
    arrived = {"aside": threading.Event(), "promote": threading.Event()}

    def ordered(self: Any, item_id: str, path: str | None, *arguments: Any) -> Any:
        which = "aside" if path is not None and ".jobfs-" in path else "promote"
        if order[0] and which != order[0]:
            arrived[order[0]].wait(10)
        try:
            return update(self, item_id, path, *arguments)
        finally:
            arrived[which].set()

    monkeypatch.setattr(ServerSide, "update", ordered)
    yield lambda first: order.__setitem__(0, first)
    for event in arrived.values():
        event.set()


def saved(work: Workspace) -> None:
    work.server.store.seed({"dir/file.txt": OLD}, age=60)
    with work.opening("dir/file.txt") as fh:
        work.vfs.write(fh, NEW, 0)
        work.vfs.fsync(fh)


def changes(server: Server) -> list[str]:
    return [entry.operation for entry in server.log.entries() if entry.method != "GET"]

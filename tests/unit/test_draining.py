"""Draining: when it ends, and what it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.mount.memory_vfs import MemoryVfs

from jobfs.draining import describe, drain, kept
from jobfs.nodes import Sent


def never() -> bool:
    return False


class DrainedVfs(MemoryVfs):
    """Drains when it is told to; what is unsent until then stays, and is in the state of `states`."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = ["a", "b"]
        self.let_go = threading.Event()
        self.looks = 0
        self.on_look: Callable[[int], object] = lambda number: None
        self.state: Callable[[int], tuple[str, int]] = lambda number: ("staging", 1)

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None = None
    ) -> list[str]:
        assert progress is not None
        while not self.let_go.wait(0.005):
            progress(Sent(0, len(self.waiting)))
        self.waiting = []
        return super().flush_all(path, timeout, progress)

    def unsent(self, path: str | None = None) -> list[dict[str, Any]]:
        self.looks += 1
        self.on_look(self.looks)
        state, attempts = self.state(self.looks)
        return [{"path": path, "state": state, "attempts": attempts} for path in self.waiting]


@pytest.fixture
def vfs() -> Iterator[DrainedVfs]:
    vfs = DrainedVfs()
    yield vfs
    vfs.let_go.set()


def draining(
    vfs: DrainedVfs,
    progress: Callable[[Sent], None] | None = None,
    cancelled: Callable[[], bool] = never,
    patience: float = 20,
) -> list[str]:
    left = drain(vfs, None, None, progress, cancelled, patience)  # type: ignore[arg-type]
    return [entry["path"] if isinstance(entry, dict) else entry for entry in left]


def test_what_is_under_way_for_longer_than_an_attempt_may_stand_still_gets_on(vfs: DrainedVfs) -> None:
    vfs.state = lambda number: ("uploading", 0)
    vfs.on_look = lambda number: vfs.let_go.set() if number == 60 else None
    assert draining(vfs, patience=0.1) == []
    assert vfs.looks >= 60


def test_while_nothing_is_unsent_what_was_set_aside_may_take_its_time(vfs: DrainedVfs) -> None:
    vfs.waiting = []
    vfs.on_look = lambda number: vfs.let_go.set() if number == 60 else None
    assert draining(vfs, patience=0.1) == []
    assert vfs.looks >= 60


def test_a_drain_that_sends_one_after_another_goes_on(vfs: DrainedVfs) -> None:
    def one_more(number: int) -> None:
        vfs.waiting = vfs.waiting[:-1] if number % 5 == 0 else vfs.waiting
        if not vfs.waiting:
            vfs.let_go.set()

    vfs.waiting = [str(number) for number in range(6)]
    vfs.on_look = one_more
    assert draining(vfs, patience=0.5) == []


def test_a_drain_that_fails_is_not_taken_for_done(vfs: DrainedVfs) -> None:
    def broken(path: str) -> None:
        raise ValueError("no journal")

    vfs.let_go.set()
    vfs.hooks["flush_all"] = broken
    assert draining(vfs) == ["sending failed: no journal"]


def test_what_the_server_has_refused_is_not_said_to_be_sent_by_the_next_mount() -> None:
    """vfs/semantics.md 4: it waits for `jobfs retry` or `jobfs discard`."""
    waits, failed = {"path": "a", "state": "dirty"}, {"path": "b", "state": "failed"}
    assert kept([waits]) == "1 unsent: kept for the next mount of this job: a"
    refused = "refused by the server, kept until jobfs retry or jobfs discard in the next mount: b"
    assert kept([failed]) == f"1 unsent: {refused}"
    assert kept([waits, failed]) == f"2 unsent: kept for the next mount of this job: a; {refused}"
    assert kept([]) == ""


@pytest.mark.parametrize(
    ("left", "line"),
    [
        ([], ""),
        (["a", {"path": "b", "reason": "x"}], "a, b"),
        ([str(number) for number in range(12)], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
    ],
)
def test_what_is_left_is_described_in_one_line(left: list[Any], line: str) -> None:
    assert describe(left) == line

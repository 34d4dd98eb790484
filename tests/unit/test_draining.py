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
    """Drains when it is told to; until then unsent files stay, and `on_look` tells the progress at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.left = ["a", "b"]
        self.on_look: Callable[[int], Sent] = lambda number: Sent(0, 2)

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None = None
    ) -> list[str]:
        assert progress is not None
        number = 0
        while not self.let_go.wait(0.005):
            number += 1
            progress(self.on_look(number))
        return super().flush_all(path, timeout, progress)

    def unsent(self, path: str | None = None) -> list[dict[str, Any]]:
        return [{"path": path} for path in self.left]


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


@pytest.mark.parametrize(
    "how_far",
    [
        lambda number: Sent(0, 2, number, 1000),
        lambda number: Sent(number, 1000),
        lambda number: Sent(2, 2),
    ],
    ids=["bytes move", "files are done", "all is sent, and what was set aside is cleaned up"],
)
def test_a_drain_that_gets_on_goes_on(vfs: DrainedVfs, how_far: Callable[[int], Sent]) -> None:
    def on_look(number: int) -> Sent:
        if number == 60:
            vfs.let_go.set()
        sent = how_far(number)
        vfs.left = [] if sent.files == sent.all_files else vfs.left
        return sent

    vfs.on_look = on_look
    assert draining(vfs, patience=0.1) == []


@pytest.mark.parametrize(
    "how_far",
    [
        lambda number: Sent(0, 2),
        lambda number: Sent(0, 2, number % 7, 10),
        lambda number: Sent(2, 2),
    ],
    ids=["still", "again", "all files are sent, and a rename is left"],
)
def test_a_drain_ends_that_does_not_get_on_or_sends_the_same_again(
    vfs: DrainedVfs, how_far: Callable[[int], Sent]
) -> None:
    vfs.on_look = how_far
    assert draining(vfs, patience=0.1) == ["a", "b"]


def test_a_drain_that_fails_is_not_taken_for_done(vfs: DrainedVfs) -> None:
    def broken(path: str) -> None:
        raise ValueError("no journal")

    vfs.let_go.set()
    vfs.hooks["flush_all"] = broken
    assert draining(vfs) == ["sending failed: no journal"]


@pytest.mark.parametrize(
    ("left", "line"),
    [
        ([], ""),
        (["a", {"path": "b", "reason": "x"}], "a, b"),
        ([str(number) for number in range(12)], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
        # vfs/semantics.md 4: it is not sent by the next mount.
        ([{"path": "b", "state": "failed"}], "b (refused by the server: jobfs retry, or jobfs discard)"),
    ],
)
def test_unsent_files_are_described_in_one_line(left: list[Any], line: str) -> None:
    assert describe(left) == line
    assert kept(left) == (f"{len(left)} unsent: kept for the next mount of this job: {line}" if left else "")

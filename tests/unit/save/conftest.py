"""A world per test, taken down after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs.save.upload import Uploader

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mount does not ask the server how creates are taken."""
    monkeypatch.setattr(Uploader, "count_create_and_probe", lambda self, path: None)


@pytest.fixture
def stale_looks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is too old once its request has a connection (save/protocol.md R8)."""
    monkeypatch.setattr("jobfs.save.context._FRESH", 0.0)
    world.client.health.latency = 0.0

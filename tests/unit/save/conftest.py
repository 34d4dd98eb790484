"""A world per test, taken down after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs.nodes import Kind

from .world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def unasked(world: World) -> None:
    """The mount knows that this server takes a second create at a path, and does not ask."""
    world.context.server.learn(rejects=dict.fromkeys(Kind, False))


@pytest.fixture
def stale_looks(world: World) -> None:
    """Each look is too old once its request has a connection (save/protocol.md R8)."""
    world.context.clock = lambda: time.monotonic() + 0.5
    world.client.health.latency = 0.0

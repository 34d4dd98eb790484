"""A world per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    assert world.namespace._cache._in_flight == set(), "changes are kept for a request that is over"

"""A world per test, taken down after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .world import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.namespace.close()

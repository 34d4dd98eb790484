"""A world per test, taken down after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .world import World

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes a world with these settings, as often as a test calls it."""
    number = itertools.count()
    with ExitStack() as stack:

        def make(**options: Any) -> World:
            world = World(tmp_path / str(next(number)), **options)
            stack.callback(world.close)
            return world

        yield make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()

"""Slow lines leave room for people; a server that asks for patience gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from tests.support.load import lines


@pytest.mark.parametrize("direction", ["up", "down"])
def test_people_do_not_wait_for_large_files_on_a_slow_line(
    held: Callable[..., None], direction: Literal["up", "down"]
) -> None:
    held(lines.room, direction=direction, files=20, size=600_000, bandwidth=2_000_000, latency=50, rounds=3)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_whole_mount_waits_when_it_is_asked_to(
    held: Callable[..., None], form: Literal["seconds", "date"]
) -> None:
    held(lines.throttled, files=60, pause=60, watched=2, latency=20, form=form, end="remount")

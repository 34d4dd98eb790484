"""Each workload of `scripts/load` in a form that ends in seconds: its bounds hold, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.stress.load import disks, lines, outages, rewriting, silence, trees, weather

_OUTAGE = {"files": 200, "saves": 60, "renames": 10, "unlinks": 10, "latency": 10}

WORKLOADS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (lines.room, {"files": 20, "size": 600_000, "bandwidth": 2_000_000, "latency": 50, "rounds": 3}),
    (lines.throttled, {"files": 60, "pause": 60, "watched": 2, "latency": 20, "end": "remount"}),
    (outages.outage, {"away": "silent", "end": "back", **_OUTAGE}),
    (outages.outage, {"away": "503", "end": "recover", **_OUTAGE}),
    (weather.bad_weather, {"storm": 5.0, "latency": 10, "seconds": 60}),
    (rewriting.sed, {"files": 120, "latency": 50}),
    (rewriting.day, {"saves": 200, "latency": 20}),
    (silence.silent, {"timeout": 1, "at_once": 40, "latency": 20, "on": "POST+DELETE", "seconds": 60}),
    (silence.waiting, {"programs": 40, "latency": 20, "on": "*", "seconds": 30}),
    (trees.copied, {"files": 120, "latency": 20}),
    (trees.removed, {"directories": 60, "files": 100, "beside": 250, "at_once": 2, "latency": 20}),
]


@pytest.mark.parametrize(("play", "arguments"), WORKLOADS, ids=lambda part: getattr(part, "__name__", ""))
def test_its_bounds_hold(
    held: Callable[..., None], play: Callable[..., None], arguments: dict[str, Any]
) -> None:
    held(play, **arguments)


def test_files_that_the_job_rewrites_are_read_as_one_version_each(held: Callable[..., None]) -> None:
    """vfs/semantics.md 3.13."""
    held(rewriting.read_meanwhile, files=4, size=2_000_000, writes=60, latency=10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk of its own for this")
@pytest.mark.parametrize(("end", "cache"), [("back", "same"), ("recover", "elsewhere")])
def test_what_was_acknowledged_on_a_full_disk_is_sent(
    held: Callable[..., None], end: str, cache: str
) -> None:
    held(disks.full_disk, end=end, cache=cache, files=12, disk=10, latency=20)

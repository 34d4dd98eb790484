"""`scripts/load`: every workload in its long form, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from tests.stress.report import Run, program
from tests.support.forks import ForkServer

from . import outages, rewriting, sharing, silence, trees, weather
from .stage import DESCRIPTORS, Workload, played

#: Minutes of a run with full numbers. A quarter is bad weather; in another quarter the job and programs write the same files,
#: with and without faults.
FULL = 30.0


def workloads(minutes: float) -> list[Workload]:
    """All of them; with less than half an hour there is as much less of everything that is counted or lasts for a time."""

    def some(number: int, least: int) -> int:
        return max(least, round(number * min(1.0, minutes / FULL)))

    storm = minutes * 60 / 4
    return [
        Workload(name, play, 300 + storm + sum(arguments.get(what, 0) for what in _TAKES) / 5, arguments)
        for name, play, arguments in _all(some, storm)
    ]


#: What of a workload takes seconds.
_TAKES = ("files", "directories", "beside", "saves", "renames", "unlinks", "writes")


def _all(some: Callable[[int, int], int], storm: float) -> Iterator[tuple[str, Callable[..., None], Any]]:
    for latency in (20, 50):
        yield f"sed-{latency}", rewriting.sed, {"files": some(2000, 200), "latency": latency}
    yield "copy", trees.copied, {"files": some(10_000, 300), "latency": 20}
    removed = {"directories": some(625, 60), "files": some(2100, 120), "beside": some(3000, 200)}
    for latency, at_once in ((20, 1), (50, 3)):
        yield f"rm-rf-{latency}", trees.removed, {**removed, "at_once": at_once, "latency": latency}
    yield "git", trees.repository, {"commits": some(60, 5), "files": some(200, 20), "latency": 20}
    yield "tar", trees.unpacked, {"files": some(3000, 200), "latency": 200}
    away: dict[str, Any] = {"files": some(5000, 300), "saves": some(2000, 100)}
    away |= {"renames": some(500, 20), "unlinks": some(500, 20)}
    ends = ("back", "remount", "recover")
    for how, latency in (("503", 50), ("refused", 20), ("silent", 20)):
        for end in ends:
            yield f"outage-{how}-{end}", outages.outage, {**away, "away": how, "end": end, "latency": latency}
    yield "weather", weather.bad_weather, {"storm": storm, "latency": 20}
    for name, calm in (("calm", True), ("weather", False)):
        for ttl in (1, 5):
            rules: dict[str, Any] = {"storm": storm / 4, "latency": 20, "ttl": ttl, "calm": calm}
            yield f"shared-{name}-{ttl}", sharing.shared, rules
    yield "day", rewriting.day, {"saves": some(20_000, 400), "latency": 20}
    read = {"files": 6, "size": 3_000_000, "writes": some(600, 60), "latency": 20}
    yield "read-meanwhile", rewriting.rewritten, read
    slow = {"files": 20, "size": some(4_000_000, 1_000_000), "bandwidth": 2_000_000, "latency": 50}
    yield "room", silence.room, {**slow, "rounds": some(20, 4)}
    yield "silent", silence.silent, {"timeout": 3, "at_once": 40, "latency": 20}
    yield "waiting", silence.waiting, {"programs": 40, "latency": 20}
    yield "watched", trees.watched, {"files": some(10_000, 300), "directories": 50, "latency": 20}
    for end in ends:
        for cache in ("elsewhere", "same"):
            full = {"end": end, "cache": cache, "files": 20, "disk": 16, "latency": 20}
            yield f"disk-{end}-{cache}", outages.full_disk, full


@program("load")
@click.option("--minutes", type=click.FloatRange(0.1), default=FULL, help="Half of it is drawn at random.")
@click.option("--only", multiple=True, help="Only workloads whose name begins so; may be repeated.")
def main(run: Run, minutes: float, only: tuple[str, ...]) -> None:
    """Put mounts with a shell's usual limits under load, and hold what they cost to its bounds."""
    known = workloads(minutes)
    for name in only:
        if not any(work.name.startswith(name) for work in known):
            raise click.UsageError(f"there is no {name!r} in {', '.join(work.name for work in known)}")
    chosen = [work for work in known if not only or work.name.startswith(only)]
    print(f"seed {run.seed}, {len(chosen)} workloads", flush=True)
    forks = ForkServer(run.home, DESCRIPTORS)
    try:
        for work in chosen:
            run.add(played(work, forks, run.home / work.name, seed=run.seed, pause=1.0))
    finally:
        forks.close()

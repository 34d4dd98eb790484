"""`scripts/load`: every workload in its long form, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from tests.stress.report import Run, program
from tests.support.forks import ForkServer

from . import outages, sharing, silence, trees, weather
from .stage import DESCRIPTORS, Workload, played

#: Minutes of a run with full numbers. A quarter is bad weather; in another quarter the job and programs write the same files,
#: with and without faults.
FULL = 30.0
#: What of a workload takes seconds.
_TAKES = ("files", "directories", "beside", "saves", "renames", "unlinks")
_ENDS = ("back", "remount", "recover")


def workloads(minutes: float) -> list[Workload]:
    """Return all of them; with less than half an hour there is as much less of everything that is counted or lasts for a time."""

    def some(number: int, least: int) -> int:
        return max(least, round(number * min(1.0, minutes / FULL)))

    storm = minutes * 60 / 4
    removed = {"directories": some(625, 60), "files": some(2100, 120), "beside": some(3000, 200)}
    away = {"files": some(5000, 300), "saves": some(2000, 100)}
    away |= {"renames": some(500, 20), "unlinks": some(500, 20)}
    slow = {"files": 20, "size": some(4_000_000, 1_000_000), "bandwidth": 2_000_000, "rounds": some(20, 4)}
    still, full = {"timeout": 3, "programs": 40}, {"files": 20, "disk": 16}
    table: list[tuple[str, Callable[..., None], int, dict[str, Any]]] = [
        *[(f"sed-{ms}", trees.sed, ms, {"files": some(2000, 200)}) for ms in (20, 50)],
        ("copy", trees.copied, 20, {"files": some(10_000, 300)}),
        *[(f"rm-rf-{ms}", trees.removed, ms, {**removed, "at_once": n}) for ms, n in ((20, 1), (50, 3))],
        ("tar", trees.unpacked, 200, {"files": some(3000, 200)}),
        *[
            (f"outage-{how}-{end}", outages.outage, ms, {**away, "away": how, "end": end})
            for how, ms in (("503", 50), ("refused", 20), ("silent", 20)) for end in _ENDS
        ],
        ("weather", weather.bad_weather, 20, {"storm": storm}),
        *[
            (f"shared-{name}-{ttl}", sharing.shared, 20, {"storm": storm / 4, "ttl": ttl, "calm": name == "calm"})
            for name in ("calm", "weather") for ttl in (1, 5)
        ],
        ("day", trees.day, 20, {"saves": some(20_000, 400)}),
        ("read-rewritten", sharing.rewritten, 20, {"storm": storm / 4, "files": 6, "size": 3_000_000}),
        ("room", silence.room, 50, slow),
        ("silent-changes", silence.silent, 20, {**still, "on": "POST+DELETE"}),
        ("silent-all", silence.silent, 20, {**still, "on": "*"}),
        ("watched", trees.watched, 20, {"files": some(10_000, 300), "directories": 50}),
        *[
            (f"disk-{end}-{cache}", outages.full_disk, 20, {**full, "end": end, "cache": cache})
            for end in _ENDS for cache in ("elsewhere", "same")
        ],
    ]  # fmt: skip
    return [_workload(storm, *row) for row in table]


def _workload(
    storm: float, name: str, play: Callable[..., None], latency: int, given: dict[str, Any]
) -> Workload:
    seconds = 300 + storm + sum(given.get(what, 0) for what in _TAKES) / 5
    return Workload(name, play, seconds, {**given, "latency": latency})


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

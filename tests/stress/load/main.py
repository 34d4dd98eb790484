"""`scripts/load`: every workload in its long form, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
from tests.stress.report import Run, program
from tests.support.forks import ForkServer

from . import outages, rewriting, silence, trees, watching, weather
from .outages import Away, End
from .stage import DESCRIPTORS, Workload, played

_PAUSE = 1.0
#: Minutes of a run with full numbers; half of them are bad weather.
FULL = 30.0

_AWAY: tuple[Away, ...] = ("503", "refused", "silent")
_END: tuple[End, ...] = ("back", "remount", "recover")


def workloads(minutes: float) -> list[Workload]:
    """All of them; with less than half an hour there is as much less of everything that is counted, and of the weather."""
    share = min(1.0, minutes / FULL)

    def some(number: int, least: int) -> int:
        return max(least, round(number * share))

    return list(_all(some, minutes * 60 / 2))


def _all(some: Callable[[int, int], int], storm: float) -> Iterator[Workload]:
    for latency in (20, 50):
        files = some(2000, 200)
        yield _work(f"sed-{latency}", 60 + files / 5, rewriting.sed, files=files, latency=latency)
    files = some(10_000, 300)
    yield _work("copy", 120 + files / 5, trees.copied, files=files, latency=20)
    for latency, at_once in ((20, 1), (50, 3)):
        numbers = {"directories": some(625, 60), "files": some(2100, 120), "beside": some(3000, 200)}
        seconds = 120 + sum(numbers.values()) / 5
        yield _work(f"rm-rf-{latency}", seconds, trees.removed, at_once=at_once, latency=latency, **numbers)
    yield _work("git", 300, trees.repository, commits=some(60, 5), files=some(200, 20), latency=20)
    files = some(3000, 200)
    yield _work("tar", 120 + files / 5, trees.unpacked, files=files, latency=200)
    numbers = {"files": some(5000, 300), "saves": some(2000, 100)}
    numbers |= {"renames": some(500, 20), "unlinks": some(500, 20)}
    seconds = 200 + sum(numbers.values()) / 10
    for away in _AWAY:
        latency = 50 if away == "503" else 20
        for end in _END:
            name = f"outage-{away}-{end}"
            yield _work(name, seconds, outages.outage, away=away, end=end, latency=latency, **numbers)
    yield _work("weather", storm + 120, weather.bad_weather, storm=storm, latency=20)
    saves = some(20_000, 400)
    yield _work("day", 120 + saves / 10, rewriting.day, saves=saves, latency=20)
    read = {"files": 6, "size": 3_000_000, "writes": some(600, 60), "latency": 20}
    yield _work("read-meanwhile", 120 + read["writes"] / 5, rewriting.read_meanwhile, **read)
    slow = {"files": 20, "size": some(4_000_000, 1_000_000), "bandwidth": 2_000_000, "latency": 50}
    yield _work("room", 300, silence.room, rounds=some(20, 4), **slow)
    yield _work("silent", 150, silence.silent, timeout=3, at_once=40, latency=20)
    yield _work("waiting", 120, silence.waiting, programs=40, latency=20)
    files = some(10_000, 300)
    yield _work("watched", 180 + files / 50, watching.watched, files=files, directories=50, latency=20)
    for end in _END:
        for cache in ("elsewhere", "same"):
            full = {"end": end, "cache": cache, "files": 20, "disk": 16, "latency": 20}
            yield _work(f"disk-{end}-{cache}", 150, outages.full_disk, **full)


def _work(name: str, limit: float, play: Callable[..., None], **arguments: Any) -> Workload:
    return Workload(name, play, limit, arguments)


@program("load")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.1),
    default=FULL,
    show_default=True,
    help="Half of it is bad weather; below 30 there is less of everything else too.",
)
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only workloads whose name begins so; may be repeated."
)
@click.option("--list", "listing", is_flag=True, help="Print the names of the workloads.")
def main(run: Run, minutes: float, only: tuple[str, ...], listing: bool) -> None:
    """Put mounts with a shell's usual limits under load, and hold what they cost to its bounds."""
    chosen = [work for work in workloads(minutes) if not only or work.name.startswith(only)]
    for name in only:
        if not any(work.name.startswith(name) for work in chosen):
            known = ", ".join(work.name for work in workloads(minutes))
            raise click.UsageError(f"there is no workload {name!r}; known: {known}")
    if listing:
        click.echo("\n".join(work.name for work in chosen))
        return
    run.begin(f"{len(chosen)} workloads")
    forks = ForkServer(run.home, DESCRIPTORS)
    try:
        for work in chosen:
            run.add(played(work, forks, run.home / work.name, seed=run.seed, pause=_PAUSE))
    finally:
        forks.close()

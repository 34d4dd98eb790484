"""The command line of the bench; see `scripts/bench`."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .lab import Lab, NotMeasured
from .measure import Outcome
from .peers import PEERS
from .readme import write as write_readme
from .session import Wish, measure
from .table import show, write_json
from .trial import Plan
from .workloads import WORKLOADS


def _milliseconds(context: click.Context, parameter: click.Parameter, value: str) -> list[float]:
    try:
        rtts = [float(part) / 1000 for part in value.split(",")]
    except ValueError:
        rtts = []
    if not rtts or not all(0 <= rtt <= 10 for rtt in rtts):
        raise click.BadParameter("give round trips in milliseconds from 0 to 10000, such as 0,10,50")
    return rtts


def _peers(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    names = {"none": [], "all": list(PEERS)}.get(value, value.split(","))
    if unknown := set(names) - set(PEERS):
        raise click.BadParameter(f"there is no peer {min(unknown)!r}; known: all, none, {', '.join(PEERS)}")
    return names


@click.command(
    help=f"""Measure jobfs, its peers and the empty file system on the same tree, through the same slow line.

Workloads: {", ".join(WORKLOADS)}."""
)
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]…")
@click.option("--all", "everything", is_flag=True, help="All workloads, which is the default.")
@click.option(
    "--rtt",
    "rtts",
    default="0,10,50",
    show_default=True,
    callback=_milliseconds,
    metavar="MS,…",
    help="Round trips of the line, in milliseconds.",
)
@click.option(
    "--runs", type=click.IntRange(1, 99), default=3, show_default=True, help="The median of so many."
)
@click.option(
    "--peers",
    default="all",
    show_default=True,
    callback=_peers,
    metavar="NAME,…|none",
    help=f"Of: {', '.join(PEERS)}.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write everything that was measured there.",
)
@click.option(
    "--quick", is_flag=True, help="A small part of each workload, once: to see that the bench works."
)
@click.option("--readme", is_flag=True, help="Write the figures of README.md and design.md, with the commit.")
@click.option("--profile", is_flag=True, help="One run of jobfs under cProfile; its times mean nothing then.")
def bench(
    workloads: tuple[str, ...], everything: bool, rtts: list[float], runs: int, peers: list[str],
    json_file: Path | None, quick: bool, readme: bool, profile: bool,
) -> None:  # fmt: skip
    """Exit code: 0, even where a target is missed; 1 if something of jobfs could not be measured or was wrong."""
    if unknown := [name for name in workloads if name not in WORKLOADS]:
        raise click.UsageError(f"there is no workload {unknown[0]!r}; known: {', '.join(WORKLOADS)}")
    names = list(WORKLOADS) if everything or not workloads else list(workloads)
    console, errors = Console(width=None if sys.stdout.isatty() else 220), Console(stderr=True)
    # A signal that only ends Python would leave what was mounted.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    began, interrupted = time.time(), False
    outcomes: list[Outcome] = []

    def say(text: str) -> None:
        errors.print(f"{time.time() - began:4.0f} s  {text}", style="dim", highlight=False)

    with Lab() as lab:
        wish = Wish(
            names, rtts, 1 if quick or profile else runs, [] if profile else peers, Plan(quick),
            lab.fresh("profile") if profile else None,
        )  # fmt: skip
        try:
            measure(wish, lab, say, outcomes)
        except KeyboardInterrupt:
            interrupted = True
            say("interrupted; this is what there is so far")
        if wish.profile:
            _show_profile(wish.profile)
    show(outcomes, console)
    load, cpus = os.getloadavg()[1], os.cpu_count() or 1
    if load > 2 * cpus:
        console.print(
            f"The machine was busy (load {load:.1f} on {cpus} CPUs): seconds are too long, most of all ours."
        )
    if json_file is not None:
        facts: dict[str, Any] = {
            "began": began,
            "seconds": time.time() - began,
            "runs": wish.runs,
            "quick": quick,
        }
        write_json(
            outcomes, json_file, {**facts, "python": platform.python_version(), "cpus": os.cpu_count()}
        )
    if interrupted:
        sys.exit(130)
    if readme:
        write_readme(outcomes, sys.argv[1:])
    sys.exit(any({"jobfs", "floor"} & set(outcome.failures) for outcome in outcomes))


def _show_profile(directory: Path) -> None:
    import pstats

    files = [str(file) for file in directory.iterdir()]
    if not files:
        raise NotMeasured("the mounts left no profile")
    stats = pstats.Stats(*files)
    stats.sort_stats("tottime").print_stats(40)
    stats.sort_stats("cumulative").print_stats(40)


if __name__ == "__main__":
    try:
        bench()
    except NotMeasured as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

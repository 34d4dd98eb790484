"""The command line of the bench; see `scripts/bench`."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from .lab import ENDING, Lab, NotMeasured
from .measure import Outcome
from .peers import PEERS
from .readme import write as write_readme
from .session import Selection, measure
from .table import line, show, write_json
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


def _workloads(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise click.UsageError(f"there is no workload {unknown[0]!r}; known: {', '.join(WORKLOADS)}")
    return names or tuple(WORKLOADS)


@click.command(
    help=f"""Measure jobfs, its peers and the empty file system on the same tree, through the same slow line.

Workloads: {", ".join(WORKLOADS)}."""
)
@click.argument("workloads", nargs=-1, callback=_workloads, metavar="[WORKLOAD]…")
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
    """Run the bench. Exit code: 0, even if a target is missed; 1 if something of jobfs could not be measured or was wrong.

    After a signal: print the table measured so far, and exit with 128 plus the signal's number.
    """
    names = tuple(WORKLOADS) if everything else workloads
    console = Console() if sys.stdout.isatty() else Console(width=220)
    began, outcomes = time.time(), list[Outcome]()
    _take_signals()
    with Lab() as lab:
        selection = Selection(names, rtts, 1 if quick else runs, peers, Plan(quick))
        if profile:
            selection = replace(selection, runs=1, peers=(), profile=lab.fresh("profile"))
        stopped = _measure(selection, lab, console, outcomes)
        if not stopped:
            _show_profile(selection.profile)
        show(outcomes, console)
    _warn_if_busy(console)
    if json_file is not None:
        write_json(outcomes, json_file, _facts(selection, began))
    if readme and not stopped:
        write_readme(outcomes, sys.argv[1:])
    sys.exit(128 + stopped if stopped else _failed(outcomes))


def _failed(outcomes: Iterable[Outcome]) -> bool:
    return any({"jobfs", "floor"} & set(outcome.failures) for outcome in outcomes)


class _StoppedError(BaseException):
    """A signal that asks the bench to end: Python's default for it would leave the mounts in place."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _take_signals() -> None:
    """Raise _StoppedError in the main thread for each signal that asks the bench to end."""

    def stop(number: int, frame: object) -> NoReturn:
        raise _StoppedError(number)

    for number in ENDING:
        signal.signal(number, stop)


def _measure(selection: Selection, lab: Lab, console: Console, outcomes: list[Outcome]) -> int:
    """Measure, and print each row at once; return the number of the signal that ended the measurement, 0 if none did."""
    errors, began = Console(stderr=True), time.monotonic()

    def say(text: str) -> None:
        errors.print(f"{time.monotonic() - began:4.0f} s  {text}", style="dim", highlight=False)

    try:
        for rows in measure(selection, lab, say, outcomes):
            for text in filter(None, map(line, rows)):
                console.print(text, highlight=False, markup=False, soft_wrap=True)
    except _StoppedError as stopped:
        say(f"{signal.Signals(stopped.number).name}: this is what there is so far")
        return stopped.number
    return 0


def _facts(selection: Selection, began: float) -> dict[str, Any]:
    """Return the circumstances of the run; `began` in seconds since the epoch."""
    machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
    seconds = time.time() - began
    return {
        "began": began,
        "seconds": seconds,
        "runs": selection.runs,
        "quick": selection.plan.quick,
        **machine,
    }


def _warn_if_busy(console: Console) -> None:
    load, cpus = os.getloadavg()[1], os.cpu_count() or 1
    if load > 2 * cpus:
        console.print(
            f"The machine was busy (load {load:.1f} on {cpus} CPUs): seconds are too long, most of all ours."
        )


def _show_profile(directory: Path | None) -> None:
    """Print cProfile's results in `directory`; None: the run was not profiled."""
    if directory is None:
        return
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
    except _StoppedError as stopped:  # the signal came before or after the measurement
        sys.exit(128 + stopped.number)

"""`scripts/load`: the long forms one after another, a table at the end."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from .catalogue import FULL, workloads
from .stage import Outcome, Workload, limited, played
from .table import show

_INTERRUPTED = 130
_PAUSE = 1.0


@click.command()
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
@click.option("--seed", type=int, default=None, help="Where chance begins; printed when it is not given.")
@click.option("--list", "listing", is_flag=True, help="Print the names of the workloads.")
def main(minutes: float, only: tuple[str, ...], seed: int | None, listing: bool) -> None:
    """Put mounts with a shell's usual limits under load, and hold what they cost to its bounds.

    Exit code 1 if a bound did not hold.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    chosen = [work for work in workloads(minutes) if not only or work.name.startswith(only)]
    for name in only:
        if not any(work.name.startswith(name) for work in chosen):
            known = ", ".join(work.name for work in workloads(minutes))
            raise click.UsageError(f"there is no workload {name!r}; known: {known}")
    if listing:
        click.echo("\n".join(work.name for work in chosen))
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A signal that only ends Python would leave what was mounted.
        signal.signal(number, signal.default_int_handler)
    console = Console(width=None if sys.stdout.isatty() else 230)
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        _play(chosen, seed, console, outcomes)
    except KeyboardInterrupt:
        interrupted = True
        console.print("interrupted; this is what there is so far")
    show(outcomes, console)
    sys.exit(_INTERRUPTED if interrupted else any(outcome.broken for outcome in outcomes))


def _play(chosen: list[Workload], seed: int, console: Console, outcomes: list[Outcome]) -> None:
    console.print(f"seed {seed}, {len(chosen)} workloads; Ctrl-C ends it before")
    with _directory() as place:
        forks = limited(place / "forks")
        try:
            for work in chosen:
                began = time.monotonic()
                outcome = played(work, forks, place / work.name, seed=seed, pause=_PAUSE)
                outcomes.append(outcome)
                verdict = "held" if not outcome.broken else f"{len(outcome.broken)} bounds broken"
                console.print(f"{time.monotonic() - began:5.0f} s  {work.name}: {verdict}", highlight=False)
        finally:
            forks.close()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="jobfs-load-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()

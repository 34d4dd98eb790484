"""`scripts/load`: the long forms one after another."""

from __future__ import annotations

import click
from tests.stress.report import Run, program

from .catalogue import FULL, workloads
from .stage import limited, played

_PAUSE = 1.0


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
    forks = limited(run.home / "forks")
    try:
        for work in chosen:
            run.add(played(work, forks, run.home / work.name, seed=run.seed, pause=_PAUSE))
    finally:
        forks.close()

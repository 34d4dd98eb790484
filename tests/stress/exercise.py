"""`scripts/exercise`: the random differential with each set of switches."""

from __future__ import annotations

import itertools
import time

import click

from .differential import SWITCHES, differences, twins
from .report import Row, Run, none, program

#: Steps of one sequence.
STEPS = 60


@program("exercise")
@click.option(
    "--operations", type=click.IntRange(1), default=50_000, show_default=True, help="Calls in all, at random."
)
@click.option(
    "--shrink-for",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds to look for a shorter sequence.",
)
def main(run: Run, operations: int, shrink_for: float) -> None:
    """Make calls at random on a mount and on a disk: the answers are the same, and so is what the server has.

    A wrong answer is told with the shortest sequence of calls that still gives it.
    """
    run.begin(f"{operations} operations")
    count = max(1, operations // STEPS // len(SWITCHES))
    for number, (name, switches) in enumerate(SWITCHES.items()):
        began = time.monotonic()
        seeds = range(run.seed + number * count, run.seed + (number + 1) * count)
        with twins(run.home / str(number), switches) as pair:
            found = list(itertools.islice(differences(pair.play, seeds, STEPS, shrink_for), 1))
            checks = [
                none("answers that are not as on a disk", found),
                none("what is left at the end", pair.end()),
            ]
        run.add(Row(name, "", {"sequences": str(count)}, checks, time.monotonic() - began))

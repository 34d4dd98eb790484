"""`scripts/exercise`: the random differential with each set of switches; then several programs at once in a tree."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import click

from .differential import SWITCHES, Twins, differences, twins
from .report import Row, Run, none, program
from .tree import exercise_tree

#: Steps of one sequence.
STEPS = 60


@program("exercise")
@click.option(
    "--operations", type=click.IntRange(1), default=50_000, show_default=True, help="Calls in all, at random."
)
@click.option(
    "--workers", type=click.IntRange(0, 32), default=4, show_default=True, help="In the tree; 0: none."
)
@click.option(
    "--shrink-for",
    type=float,
    default=300.0,
    show_default=True,
    help="Seconds to look for a shorter sequence.",
)
def main(run: Run, operations: int, workers: int, shrink_for: float) -> None:
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
            checks = [none("answers that are not as on a disk", found)]
            if workers:
                wrong = _wrong(lambda: _tree(run, pair, workers, operations))
                checks.append(none("what programs in a tree find wrong", wrong))
            checks.append(none("what is wrong at the end", _wrong(pair.end)))
        run.add(Row(name, "", {"sequences": str(count)}, checks, time.monotonic() - began))


def _tree(run: Run, pair: Twins, workers: int, operations: int) -> None:
    each = max(1, operations // 50 // len(SWITCHES))
    exercise_tree(pair.mounted, workers=workers, operations=each, seed=run.seed, timeout=3600)


def _wrong(call: Callable[[], None]) -> list[str]:
    try:
        call()
    except AssertionError as error:
        return [str(error)]
    return []

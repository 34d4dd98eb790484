"""`scripts/exercise`: random operations on one file of a mount, then several programs at once in a tree."""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import visible

from jobfs.emulator import Behaviour, EmulatorConfig, running

from .operations import Operation, generate
from .shrinking import shrunk
from .single import Exerciser, Failure, exercising
from .tree import exercise_tree

#: Operations on one file, before another one is begun.
ROUND = 1000


@click.command()
@click.option("--operations", type=click.IntRange(1), default=50_000, show_default=True, help="On one file.")
@click.option("--seed", type=int, default=None, help="Where chance begins; printed when it is not given.")
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
def main(operations: int, seed: int | None, workers: int, shrink_for: float) -> None:
    """Exercise a mount with random operations and compare each answer with a byte buffer's.

    A wrong answer ends it with exit code 1, after the shortest sequence of operations that still gives one was looked for.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="jobfs-exercise-") as directory:
        home = Path(directory)
        (home / "server").mkdir()
        with (
            running(EmulatorConfig(behaviour=Behaviour()), home / "server") as server,
            mounting(server, home / "home") as mounted,
        ):
            _one_file(mounted, seed, operations, shrink_for)
            _tree(mounted, seed, workers, operations // 50)


def _one_file(mounted: MountedJob, seed: int, operations: int, shrink_for: float) -> None:
    began = time.monotonic()
    with exercising(mounted, lambda name: visible(mounted.server).get(name)) as exerciser:
        for number, start in enumerate(range(0, operations, ROUND)):
            sequence = generate(seed + number, min(ROUND, operations - start))
            failure = exerciser.run(sequence)
            if failure is not None:
                click.echo(f"seed {seed + number}: {failure}")
                click.echo(report(exerciser, sequence[: failure.index + 1], shrink_for))
                sys.exit(1)
            done = start + len(sequence)
            click.echo(f"one file: {done} operations, {time.monotonic() - began:.0f} s")


def _tree(mounted: MountedJob, seed: int, workers: int, operations: int) -> None:
    if not workers:
        return
    began = time.monotonic()
    try:
        exercise_tree(mounted, workers=workers, operations=operations, seed=seed, timeout=3600)
    except AssertionError as error:
        click.echo(f"a tree: {error}")
        sys.exit(1)
    click.echo(f"a tree: {workers} programs, {operations} operations each, {time.monotonic() - began:.0f} s")


def report(exerciser: Exerciser, sequence: Sequence[Operation], seconds: float) -> str:
    """The shortest sequence found that gives a wrong answer too, a line each."""
    last: list[Failure] = []

    def fails(candidate: Sequence[Operation]) -> bool:
        failure = exerciser.run(candidate)
        if failure is not None:
            last.append(failure)
        return failure is not None

    if not any(fails(sequence) for _ in range(3)):
        return "the same sequence, played again three times, gives no wrong answer: it depends on the moment"
    shortest = shrunk(sequence, fails, seconds)
    lines = [f"  {number}: {operation}" for number, operation in enumerate(shortest)]
    return "\n".join([f"the shortest sequence found, of {len(shortest)} operations:", *lines, str(last[-1])])


if __name__ == "__main__":
    main()

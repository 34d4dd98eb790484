"""`scripts/fuzz`: the long form of tests/component/test_fuzz.py; what breaks is raised, with the shortest answer that does it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tests.stress.report import Row, Run, program

from jobfs.api import deadline as times

from .answers import answers, odd_items
from .checks import Growth, check_any_answer, check_odd_items
from .world import World, world

#: Examples after which hypothesis begins anew: it remembers each, 0.1 MiB, which would be taken for growth of the client.
ROUND = 200


@program("fuzz")
@click.option(
    "--examples",
    type=click.IntRange(1),
    default=5_000,
    show_default=True,
    help="Answers, and lists of items.",
)
def main(run: Run, examples: int) -> None:
    """Put hostile answers of every endpoint through the real client, and the workspace behind them."""
    times.FIRST_PAUSE, times.LONGEST_PAUSE = 0.02, 0.05
    logging.disable(logging.CRITICAL)
    run.begin(f"{examples} examples of each")
    checks: dict[str, tuple[Callable[[World, Any], None], st.SearchStrategy[Any]]] = {
        "lists of odd items": (check_odd_items, st.lists(odd_items(), max_size=12)),
        "answers": (check_any_answer, answers()),
    }
    with world() as made:
        growth = Growth()
        for what, (check, some) in checks.items():
            began = time.monotonic()
            for first in range(0, examples, ROUND):
                one_round(partial(check, made), some, run.seed + first, min(ROUND, examples - first))
                growth.check()
            figures = {"MiB more memory at most": str(growth.mib)}
            run.add(Row(what, f"{examples} examples", figures, seconds=time.monotonic() - began))


def one_round(check: Callable[[Any], None], some: st.SearchStrategy[Any], number: int, examples: int) -> None:
    """One round: what hypothesis remembers of it goes with it."""

    @given(some)
    def attempt(value: Any) -> None:
        check(value)

    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(options(attempt))()

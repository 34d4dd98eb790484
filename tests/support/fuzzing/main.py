"""scripts/fuzz: the long form of tests/component/test_fuzz.py."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from jobfs.api import deadline as times

from .answers import Answer, answers, odd_items
from .checks import Growth, check_any_answer, check_odd_items
from .world import World, world

#: Examples after which hypothesis begins anew: it remembers each, 0.1 MiB, which would be taken for growth of the client.
ROUND = 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Hostile answers of every endpoint, through the real client."
    )
    parser.add_argument(
        "--examples", type=int, default=5_000, help="answers to try, and as many lists of items"
    )
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to see the same once more")
    given_ = parser.parse_args()
    number = time.time_ns() % 2**32 if given_.seed is None else given_.seed
    times.FIRST_PAUSE, times.LONGEST_PAUSE = 0.02, 0.05
    logging.disable(logging.CRITICAL)
    print(f"seed {number}", flush=True)
    with world() as made:
        growth, began = Growth(), time.monotonic()
        for what, check in (("lists of odd items", items_of(made)), ("answers", answers_of(made))):
            for first in range(0, given_.examples, ROUND):
                attempt(check, number + first, min(ROUND, given_.examples - first))
                growth.check()
            told = f"{growth.mib} MiB more memory at most, {time.monotonic() - began:.0f} s"
            print(f"{given_.examples} {what}: nothing found; {told}", flush=True)


def items_of(made: World) -> Callable[[], Callable[[], None]]:
    def test() -> Callable[[], None]:
        @given(st.lists(odd_items(), max_size=12))
        def items(odd: list[bytes]) -> None:
            check_odd_items(made, odd)

        return items

    return test


def answers_of(made: World) -> Callable[[], Callable[[], None]]:
    def test() -> Callable[[], None]:
        @given(answers())
        def anything(answer: Answer) -> None:
            check_any_answer(made, answer)

        return anything

    return test


def attempt(make: Callable[[], Callable[[], None]], number: int, examples: int) -> None:
    """One round: what hypothesis remembers of it goes with it."""
    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(options(make()))()


if __name__ == "__main__":
    main()

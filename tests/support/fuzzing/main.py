"""scripts/fuzz: the long form of tests/component/test_fuzz.py."""

from __future__ import annotations

import argparse
import logging
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from jobfs.api import deadline as times

from .answers import Answer, answers, odd_items
from .checks import Growth, check_any_answer, check_odd_items
from .world import world


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
    options = settings(
        max_examples=given_.examples,
        deadline=None,
        database=None,
        print_blob=True,
        phases=(Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    print(f"seed {number}", flush=True)
    with world() as made:
        growth, began = Growth(), time.monotonic()

        @seed(number)
        @options
        @given(st.lists(odd_items(), max_size=12))
        def items(odd: list[bytes]) -> None:
            check_odd_items(made, odd)

        @seed(number)
        @options
        @given(answers())
        def anything(answer: Answer) -> None:
            check_any_answer(made, answer)

        for what, check in (("lists of odd items", items), ("answers", anything)):
            check()
            growth.check()
            told = f"{growth.mib} MiB more memory at most, {time.monotonic() - began:.0f} s"
            print(f"{given_.examples} {what}: nothing found; {told}", flush=True)


if __name__ == "__main__":
    main()

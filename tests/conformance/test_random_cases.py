"""Calls at random answer as on a disk; a failure is shrunk to a case as those beside it are."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from tests.conformance.cases import Case, Step
from tests.conformance.places import Both
from tests.conformance.random_cases import Maker, difference, told
from tests.support.exercising.shrinking import shrunk

#: How many of them; a longer run is asked for with JOBFS_TEST_CASES.
COUNT = int(os.environ.get("JOBFS_TEST_CASES", "30"))
STEPS = 50


@pytest.mark.timeout(3600, method="signal")
def test_calls_at_random_answer_as_on_a_disk(both: Both) -> None:
    for seed in range(COUNT):
        case, settle = Maker(seed, root_only=os.geteuid() != 0).case(STEPS), bool(seed % 2)
        if not difference(both, case, settle=settle):
            continue

        def fails(steps: Sequence[Step], settle: bool = settle) -> bool:
            return bool(difference(both, Case("random", "shrunk", tuple(steps)), settle=settle))

        shortest = Case("random", "shrunk", tuple(shrunk(case.steps, fails, 60.0)))
        found = difference(both, shortest, settle=settle) or "it depends on the moment"
        pytest.fail(f"seed {seed}, settle {settle}: {found}\n{told(shortest.steps)}")

"""Whatever a server sends: no exception but those of errors.py, no growth, and what is right is shown.

`scripts/fuzz` gives it more examples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.stress.fuzzing.answers import Answer, answers, odd_items
from tests.stress.fuzzing.checks import Growth, check_any_answer, check_odd_items
from tests.stress.fuzzing.world import World, world

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 40))

quickly = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def hostile() -> Iterator[World]:
    """A client of a hostile server that hurries, and does not write a line for each thing that is wrong."""
    logging.disable(logging.CRITICAL)
    growth = Growth()
    with world() as made:
        yield made
    logging.disable(logging.NOTSET)
    growth.check()


@settings(quickly, max_examples=EXAMPLES)
@given(odd=st.lists(odd_items(), max_size=8))
def test_odd_items_hide_themselves_at_most(hostile: World, odd: list[bytes]) -> None:
    """vfs/semantics.md 1.21: unknown fields and unknown item types do not break a listing."""
    check_odd_items(hostile, odd)


@settings(quickly, max_examples=EXAMPLES // 3)
@given(answer=answers())
def test_any_answer_is_a_result_or_an_error_in_time(hostile: World, answer: Answer) -> None:
    """vfs/semantics.md 5.8: a reply that does not match the contract is EIO, and the next one is read as ever."""
    check_any_answer(hostile, answer)

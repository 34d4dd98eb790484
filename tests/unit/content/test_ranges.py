"""IntervalSet against a plain set of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobfs.content.ranges import IntervalSet

SPAN = 40
positions = st.integers(0, SPAN)
additions = st.lists(st.tuples(positions, positions), max_size=25)


def both(steps: list[tuple[int, int]]) -> tuple[IntervalSet, set[int]]:
    intervals, model = IntervalSet(), set[int]()
    for start, end in steps:
        intervals.add(start, end)
        model.update(range(start, end))
    return intervals, model


@given(additions, positions, positions)
def test_it_answers_as_a_plain_set_does(steps: list[tuple[int, int]], start: int, end: int) -> None:
    intervals, model = both(steps)
    assert intervals.total == len(model)
    assert bool(intervals) == bool(model)
    missing = [position for position in range(start, end) if position not in model]
    assert intervals.covers(start, end) == (not missing)
    gap = intervals.gap(start, end)
    if not missing:
        assert gap is None
    else:
        first = missing[0]
        last = next((p for p in range(first, end) if p in model), end)
        assert gap == (first, last)
    until = next(p for p in range(start, SPAN + 2) if p not in model)
    assert intervals.covered_until(start) == until

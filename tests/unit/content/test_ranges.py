"""IntervalSet against a plain set of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobfs.content.ranges import IntervalSet

SPAN = 40
positions = st.integers(0, SPAN)
additions = st.lists(st.tuples(positions, positions), max_size=25)


@given(additions, positions, positions)
def test_ranges_behave_as_a_plain_set_of_offsets(steps: list[tuple[int, int]], start: int, end: int) -> None:
    intervals, model = IntervalSet(), set[int]()
    for step in steps:
        intervals.add(*step)
        model.update(range(*step))
    assert (intervals.total, bool(intervals)) == (len(model), bool(model))
    missing = [position for position in range(start, end) if position not in model]
    assert intervals.covers(start, end) == (not missing)
    gap = None
    if missing:
        gap = missing[0], next((p for p in range(missing[0], end) if p in model), end)
    assert intervals.first_gap(start, end) == gap
    until = next(p for p in range(start, SPAN + 2) if p not in model)
    assert intervals.contiguous_end(start) == until

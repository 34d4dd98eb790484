"""The report of `scripts/bench`: a row as a line, as soon as it is measured."""

from __future__ import annotations

import pytest

from _bench.measure import Outcome, Row, Sample
from _bench.table import line


@pytest.mark.parametrize(("samples", "failures", "told"), [
    ({"jobfs": [Sample(2.0, 7), Sample(4.0, 7), Sample(3.0, 7)]}, {},
     "a row at 50 ms: jobfs 3.00 s, req 7, bound 100 ms, x bound 30.00"),
    ({"floor": [Sample(1.0)]}, {"jobfs": "a wrong answer"}, "a row at 50 ms: not measured: a wrong answer"),
    ({}, {"rclone": "it is not installed"}, ""),
])  # fmt: skip
def test_a_row_is_a_line_with_what_was_measured(
    samples: dict[str, list[Sample]], failures: dict[str, str], told: str
) -> None:
    assert line(Outcome(Row("row", "a row", lambda rtt: 2 * rtt), 0.05, samples, failures)) == told

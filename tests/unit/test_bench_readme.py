"""The figures in the README are written by the bench."""

from __future__ import annotations

import click
import pytest

from _bench.measure import Outcome, Row, Sample
from _bench.readme import BEGIN, END, README, written


def outcome(key: str, seconds: float, **systems: float) -> Outcome:
    samples = {"jobfs": [Sample(seconds, requests=7)]}
    samples |= {name: [Sample(value)] for name, value in systems.items()}
    return Outcome(Row(key, f"the {key}", lambda rtt: 2 * rtt), 0.05, samples)


def test_the_figures_stand_between_the_marks_and_nothing_else_is_changed() -> None:
    text = f"before\n{BEGIN}| old |\n{END}\nafter\n"
    outcomes = [outcome("save", 0.17), outcome("grep", 4.8, floor=0.15), outcome("absent", 1)]
    new = written(text, outcomes, "scripts/bench --rtt 50", "abc1234")
    assert new.startswith(f"before\n{BEGIN}`scripts/bench --rtt 50` at commit abc1234:\n")
    assert new.endswith(
        "| the grep | 50 ms | 4.80 s | 7 | 100 ms | 150 ms |\n| the save | 50 ms | 170 ms | 7 | 100 ms |  |\n"
        f"{END}\nafter\n"
    )


@pytest.mark.parametrize(("text", "key"), [("no marks", "save"), (f"{BEGIN}{END}", "absent")])
def test_what_can_not_be_written_is_said(text: str, key: str) -> None:
    with pytest.raises(click.UsageError):
        written(text, [outcome(key, 1)], "scripts/bench", "abc1234")


def test_the_readme_has_the_marks() -> None:
    assert written(README.read_text(), [outcome("save", 1)], "scripts/bench", "abc1234")

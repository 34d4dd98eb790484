"""Really killed: a few rounds of what `scripts/crash-test` plays for as long as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.killing.conditions import Conditions
from tests.support.killing.lane import Lane

from jobfs.emulator import Behaviour, Rule

OPTIONS = {"request_lifetime": 0.5, "timeout": 10}

CONDITIONS = {
    "nothing goes wrong": Conditions(Behaviour(latency=5), options={**OPTIONS, "write_back_delay": 0.05}),
    "the job is at work": Conditions(
        Behaviour(latency=2), job_pause=0.05, options={**OPTIONS, "write_back_delay": 0}
    ),
    "answers are lost": Conditions(
        Behaviour(move_touches="no"),
        (Rule("drop_after", "change", rate=0.1), Rule("error_after", "*", rate=0.03)),
        options={**OPTIONS, "write_back_delay": 0.3},
    ),
    "requests are carried out late": Conditions(
        Behaviour(updated_resolution="seconds", sizes="omitted"),
        (Rule("late", "change", rate=0.1, delay=0.2),),
        job_pause=0.1,
        options={**OPTIONS, "write_back_delay": 0},
    ),
}


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(tmp_path / "lane", 2026)
    yield lane
    lane.close()


@pytest.mark.timeout(120, method="signal")
@pytest.mark.parametrize("conditions", CONDITIONS.values(), ids=CONDITIONS)
def test_nothing_is_lost_however_often_a_mount_is_killed_under_load(
    lane: Lane, conditions: Conditions
) -> None:
    """semantics 4.19: killed at any point, the next mount of that job finishes it by looking at what the server has."""
    lane.chapter(1, conditions, rounds=2)
    assert not lane.tally.violations, "\n".join(lane.tally.reports)
    assert lane.tally.kills >= 2
    assert lane.tally.acknowledged > 0

"""An outage of any kind costs disk, and nothing else; then all is sent, after kill -9 too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.load import outages, weather

NUMBERS = {"files": 200, "saves": 60, "renames": 10, "unlinks": 10, "latency": 10}


@pytest.mark.parametrize("away", ["503", "refused", "silent"])
def test_work_goes_on_while_the_server_is_away_and_is_sent_when_it_is_back(
    held: Callable[..., None], away: outages.Away
) -> None:
    held(outages.outage, away=away, end="back", **NUMBERS)


def test_what_was_unsent_when_the_mount_was_killed_is_sent_with_a_shells_descriptors(
    held: Callable[..., None],
) -> None:
    held(outages.outage, away="503", end="recover", **NUMBERS)


def test_several_people_work_in_bad_weather(held: Callable[..., None]) -> None:
    held(weather.bad_weather, storm=5.0, latency=10, seconds=60)

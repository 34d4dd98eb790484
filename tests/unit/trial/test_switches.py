"""A try names each behaviour that the local server has a switch for, whatever it is set to, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from jobfs.emulator import Behaviour, Server
from jobfs.emulator.behaviour import SWITCHES
from jobfs.trial import Verdict

from .conftest import Outcome

#: Facts of a try whose names are not those of the switches, and values that they spell otherwise.
_NAMES = {"create_existing": "create_existing_file", "input_spelling": "input_types"}
_SPELLED = {("delete_body", "empty"): "an empty object", ("delete_body", "item"): "the item"}
#: Switches that are numbers: settings that show.
_NUMBERS = {"page_cap": (100, 7, 1)}
#: So many mixtures have every value of every switch in them.
_MIXTURES = range(6)


def choices() -> dict[str, tuple[Any, ...]]:
    """Every switch with a choice, or whose numbers show, and what it can be set to."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, field in SWITCHES.items():
        values = (True, False) if field.annotation is bool else get_args(field.annotation)
        if values or name in _NUMBERS:
            found[name] = values or _NUMBERS[name]
    return found


def mixture(number: int) -> dict[str, Any]:
    """A setting of all switches."""
    return {
        name: values[(number + place) % len(values)] for place, (name, values) in enumerate(choices().items())
    }


def shows(switches: dict[str, Any]) -> dict[str, Any]:
    """The switches of a setting that can be told from outside."""
    hidden = {"other_encoding"} if switches["create_encodings"] == "both" else set()
    if switches["create_existing"] == "duplicate":
        hidden.add("path_scope")
    if not switches["move_carries"]:
        hidden.add("move_touches")
    return {name: value for name, value in switches.items() if name not in hidden}


def named(switches: dict[str, Any]) -> dict[str, Any]:
    """How the facts of a try tell these settings."""
    return {_NAMES.get(name, name): _SPELLED.get((name, value), value) for name, value in switches.items()}


def check(server: Server, tried: Callable[..., Outcome], switches: dict[str, Any]) -> None:
    server.store.seed({"notes/a.md": "hello", **{f"more/{number}": "" for number in range(9)}})
    before = server.store.tree()
    outcome = tried()
    expected = named(shows(switches))
    assert {name: outcome.facts.get(name) for name in expected} == expected
    skipped = {name for name, row in outcome.items() if row.finding.verdict is Verdict.SKIPPED}
    assert skipped == {"save"}, "there is no mount in this test"
    # Where names with capitals fail, many do.
    unwell = {"name_forms"} if switches["name_form"] == "lower" else set()
    assert {name for name, row in outcome.items() if not row.well} == unwell
    assert all(row.finding.meaning or name == "left_before" for name, row in outcome.items())
    assert server.store.tree() == before


def test_a_try_of_a_server_with_the_defaults_finds_them(
    server: Server, tried: Callable[..., Outcome]
) -> None:
    check(server, tried, {name: getattr(Behaviour(), name) for name in choices()})


@pytest.mark.parametrize("number", _MIXTURES)
def test_a_try_names_what_the_server_does(server: Server, tried: Callable[..., Outcome], number: int) -> None:
    server.set(**mixture(number))
    check(server, tried, mixture(number))


def test_every_setting_of_every_switch_is_tried() -> None:
    seen = {setting for number in _MIXTURES for setting in shows(mixture(number)).items()}
    assert {(name, value) for name, values in choices().items() for value in values} - seen == set()
    assert set(SWITCHES) - set(choices()) == {"latency", "bandwidth", "clock_skew"}


def test_slow_lines_and_wrong_clocks_are_measured(server: Server, tried: Callable[..., Outcome]) -> None:
    server.set(latency=15, bandwidth=1_000_000, clock_skew=300)
    outcome = tried()
    facts = outcome.facts
    assert facts["latency"] >= 15  # type: ignore[operator]
    assert 0 < facts["up"] < 1_500_000  # type: ignore[operator]
    assert 0 < facts["down"] < 1_500_000  # type: ignore[operator]
    assert abs(facts["clock_skew"] - 300) < 5  # type: ignore[operator]
    assert outcome["clock"].finding.verdict is Verdict.COPES
    assert "ahead" in outcome["clock"].finding.answered

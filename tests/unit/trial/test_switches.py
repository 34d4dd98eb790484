"""A try names each behaviour that the local server has a switch for, whatever it is set to, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest

from jobfs.emulator import Behaviour, Server
from jobfs.trial import Verdict

from .conftest import Outcome

#: Facts of a try whose names are not those of the switches.
_NAMES = {"create_existing": "create_existing_file", "input_spelling": "input_types"}
#: What else has to be set for a switch to show, and how facts spell values in other words.
_WITH: dict[str, dict[str, Any]] = {"other_encoding": {"create_encodings": "json"}}
_SPELLED = {"empty": "an empty object", "item": "the item"}
#: Switches that are numbers: settings that show.
_NUMBERS = {"page_cap": (1, 7)}


def settings() -> list[tuple[str, Any]]:
    """Every value of every switch with a choice but its default, and some of those that are numbers."""
    found = []
    for name, field in Behaviour.model_fields.items():
        values = (True, False) if field.annotation is bool else get_args(field.annotation)
        found += [(name, value) for value in values or _NUMBERS.get(name, ()) if value != field.default]
    return found


def seeded(server: Server) -> dict[str, bytes | None]:
    server.store.seed({"notes/a.md": "hello", **{f"more/{number}": "" for number in range(9)}})
    return server.store.tree()


def test_a_try_of_a_server_with_the_defaults_finds_them(
    server: Server, tried: Callable[..., Outcome]
) -> None:
    before = seeded(server)
    outcome = tried()
    for switch in {name for name, _ in settings()} - {"other_encoding"}:
        value = Behaviour.model_fields[switch].default
        assert (switch, outcome.facts[_NAMES.get(switch, switch)]) == (switch, value)
    skipped = {name for name, row in outcome.items() if row.finding.verdict is Verdict.SKIPPED}
    assert skipped == {"save"}, "there is no mount in this test"
    assert all(row.well and (row.finding.meaning or name == "left_before") for name, row in outcome.items())
    assert server.store.tree() == before


@pytest.mark.parametrize(("switch", "value"), settings())
def test_a_try_names_what_the_server_does(
    server: Server, tried: Callable[..., Outcome], switch: str, value: Any
) -> None:
    server.set(**_WITH.get(switch, {}), **{switch: value})
    before = seeded(server)

    outcome = tried()

    expected = _SPELLED.get(value, value) if switch == "delete_body" else value
    assert outcome.facts[_NAMES.get(switch, switch)] == expected
    assert {row.name for row in outcome.values() if not row.well} == set()
    assert server.store.tree() == before


def test_every_switch_is_tried() -> None:
    others = set(Behaviour.model_fields) - {name for name, _ in settings()}
    assert others == {"latency", "bandwidth", "clock_skew"}, "they have tests of their own"


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


@pytest.mark.parametrize("switches", [
    {"create_existing": "overwrite", "path_scope": "lifecycle", "path_style": "slash", "input_spelling": "own"},
    {"create_existing": "duplicate", "find": "glob", "updated_resolution": "microseconds", "move_touches": "tree"},
    {"create_encodings": "json", "type_spelling": "short", "input_spelling": "own", "bad_path_status": 422},
    {"list_order": "unstable", "page_cap": 3, "sizes": "omitted", "move_carries": False, "trailing_slash": "bare"},
])  # fmt: skip
def test_switches_together_are_told_apart(
    server: Server, tried: Callable[..., Outcome], switches: dict[str, Any]
) -> None:
    server.set(**switches)
    outcome = tried()
    named = {_NAMES.get(name, name): value for name, value in switches.items()}
    assert {name: outcome.facts.get(name) for name in named} == named
    assert all(row.well for row in outcome.values())
    assert server.store.tree() == {}

from __future__ import annotations

from typing import Any

import pytest

from jobfs.emulator import Faults, Rule
from jobfs.emulator.faults import OPERATIONS, WEATHER, parse_rule
from jobfs.errors import UsageError


def kinds(faults: Faults, count: int, operation: str = "list", method: str = "GET") -> list[str]:
    return [rule.kind if (rule := faults.pick_rule(operation, method)) else "" for _ in range(count)]


def test_a_fault_with_a_count_affects_only_so_many_requests() -> None:
    faults = Faults()
    faults.fail_next("drop", on="create", times=2)
    assert kinds(faults, 1) == [""]
    assert kinds(faults, 3, "create", "POST") == ["drop", "drop", ""]
    assert (faults.injected_count, faults.rules()) == (2, [])
    # They come before a rate, and skip lets some pass.
    faults.set_rate("unavailable", 1.0)
    faults.fail_next("hang", skip=1)
    assert kinds(faults, 3) == ["unavailable", "hang", "unavailable"]


@pytest.mark.parametrize(("kind", "seen"), [("unavailable", {"unavailable"}), ("weather", set(WEATHER))])
def test_a_rate_is_the_same_for_the_same_seed(kind: Any, seen: set[str]) -> None:
    rules = (Rule(kind, rate=0.5),)
    first = kinds(Faults(rules, seed=5), 400)
    again = Faults(rules, seed=5)
    assert kinds(again, 400) == first != kinds(Faults(rules, seed=6), 400)
    again.reseed(5)
    assert kinds(again, 400) == first
    assert set(first) == {"", *seen}
    assert 150 < first.count("") < 250


def test_a_fault_can_be_limited_to_operations_methods_or_groups() -> None:
    methods = {"create": "POST", "update": "POST", "delete": "DELETE"}
    groups = {"*": {*OPERATIONS}, "change": {*methods}, "read": {*OPERATIONS} - {*methods}}
    for on, struck in {**groups, "POST": {"create", "update"}, "find+delete": {"find", "delete"}}.items():
        rule = Rule("error", on)
        assert {name for name in OPERATIONS if rule.matches(name, methods.get(name, "GET"))} == struck


def test_the_command_line_can_express_every_fault() -> None:
    assert parse_rule("hang") == Rule("hang")
    assert parse_rule("unavailable=0.25@create+GET,retry-after=2,times=3,skip=1,path=*.md") == Rule(
        "unavailable", "create+GET", 0.25, 3, 1, "*.md", retry_after="2"
    )
    assert parse_rule("error@change,status=413,reason=too big,delay=0.5") == Rule(
        "error", "change", status=413, reason="too big", delay=0.5
    )


@pytest.mark.parametrize("text", ["explode", "drop=2", "drop@nowhere", "drop,times", "error,status=200"])
def test_text_that_is_not_a_fault_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_rule(text)
    assert "\n" not in str(refusal.value)

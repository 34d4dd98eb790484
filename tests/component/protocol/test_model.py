"""The protocol loses nothing, whatever happens; and not one of its rules can be left out."""

from __future__ import annotations

from functools import cache

import pytest
from tests.component.protocol.explorer import Search
from tests.component.protocol.model import Rules, Scenario, World
from tests.component.protocol.protocol import Protocol
from tests.component.protocol.removal import Removal
from tests.component.protocol.scenarios import SCENARIOS

from jobfs.writeback.records import TRANSITIONS, Fate, SaveKind, State

#: What each rule says, and the switches that leave it out.
RULES = {
    "R1: judge after the move, by content": "r1",
    "R2: no updatedAt from a later look": "r2",
    "R2: no updatedAt from a promote that was sent before": "r2_repeated",
    "R3: promoted is synced before the first delete": "r3",
    "R4: what no record names is exposed, never deleted": "r4",
    "R5: promote's 400 is news": "r5",
    "R6: a lost promote is judged by getting H": "r6",
    "R7: look again before a delete": "r7_look",
    "R7: wait for requests that went unanswered": "r7_wait",
    "R8: the find that names A is fresh": "r8",
    "R9: new files are created hidden": "r9",
    "R10: unlink is recorded before it returns": "r10",
    "R11: undo begins with the newest aside": "r11",
    "R12: a directory is moved out of reach before it is deleted": "r12",
}


@cache
def explored(scenario: Scenario) -> tuple[Protocol, Search[World]]:
    """A scenario with all rules, searched whole."""
    protocol = Protocol(scenario, Rules())
    return protocol, protocol.explore()


def shortest(switch: str) -> tuple[str, int, str]:
    """The first scenario that goes wrong without this part of a rule, the number of its steps, and the steps."""
    rules = Rules.without(switch)
    parts: list[Removal | Protocol] = [Removal(rules), *(Protocol(each, rules) for each in SCENARIOS)]
    for part in parts:
        found = part.explore()
        if found.violation:
            return part.name, len(found.schedule), found.story()
    raise AssertionError(f"without {switch} nothing goes wrong")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_with_all_rules_nothing_goes_wrong(scenario: Scenario) -> None:
    """save-protocol: any interleaving of a save with the job, deaths, losses of power and of answers."""
    _, found = explored(scenario)
    print(f"{scenario.name}: {found.states} states")
    assert not found.violation, f"{scenario.name}\n{found.story()}"


def test_with_all_rules_a_removed_directory_takes_nothing_along() -> None:
    """save-protocol R12."""
    found = Removal(Rules()).explore()
    print(f"{found.states} states")
    assert not found.violation, found.story()


@pytest.mark.parametrize("rule", RULES)
def test_without_a_rule_something_goes_wrong(rule: str) -> None:
    """save-protocol, The rules: none of them is decoration."""
    name, steps, story = shortest(RULES[rule])
    print(f"without {rule}: {name}, {steps} steps\n{story}")


def test_each_rule_of_the_protocol_has_a_switch() -> None:
    switches = set(RULES.values())
    assert switches == set(Rules.__dataclass_fields__)
    assert {rule.partition(":")[0] for rule in RULES} == {f"R{number}" for number in range(1, 13)}


def test_the_model_and_the_code_have_the_same_transitions() -> None:
    """The model refuses a transition that the code does not have; here: it makes each one that the code has."""
    taken: set[tuple[State, State]] = set()
    kinds: set[SaveKind] = set()
    fates: set[Fate] = set()
    for scenario in SCENARIOS:
        protocol, _ = explored(scenario)
        taken |= protocol.taken
        kinds |= protocol.kinds
        fates |= protocol.fates
    assert taken == {(old, new) for old, following in TRANSITIONS.items() for new in following}
    assert kinds == set(SaveKind)
    assert fates == set(Fate)

"""The protocol loses nothing, whatever happens; and not one of its rules can be left out."""

from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
from tests.component.protocol.model import Fate, Search, World
from tests.component.protocol.protocol import MACHINE, Protocol
from tests.component.protocol.removal import Removal
from tests.component.protocol.scenarios import RULES, SCENARIOS, Rule, Scenario
from tests.support.interferences import of

from jobfs.state.records import TRANSITIONS, Verb


@cache
def explored(scenario: Scenario) -> tuple[Protocol, Search[World]]:
    """A scenario with all rules, searched whole."""
    protocol = Protocol(scenario)
    return protocol, protocol.explore()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_with_all_rules_no_schedule_fails(scenario: Scenario) -> None:
    """save/protocol.md: any interleaving of a save with the job, deaths, losses of power and of answers."""
    _, found = explored(scenario)
    print(f"{found.states} states")
    assert not found.violation, found.story()


def test_with_all_rules_removing_a_directory_deletes_no_file_of_the_job() -> None:
    """save/protocol.md R12."""
    found = Removal().explore()
    print(f"{found.states} states")
    assert not found.violation, found.story()


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_some_schedule_fails(rule: str) -> None:
    """save/protocol.md, The rules: none of them is decoration."""
    switch, scenario = RULES[rule]
    found = Protocol(scenario, switch).explore()
    print(f"without {rule}: {scenario}, {len(found.schedule)} steps\n{found.story()}")
    assert found.violation


def test_without_r12_removing_a_directory_deletes_a_file_of_the_job() -> None:
    """save/protocol.md R12: a directory is moved out of the job's reach, looked at again, then deleted."""
    found = Removal("r12").explore()
    print(f"without R12: {len(found.schedule)} steps\n{found.story()}")
    assert found.violation == "j is lost"


def test_each_rule_of_the_protocol_has_a_switch() -> None:
    assert {switch for switch, _ in RULES.values()} | {"r12"} == {*get_args(Rule)} - {""}
    assert {rule.partition(":")[0] for rule in RULES} == {f"R{number}" for number in range(1, 14)} - {"R12"}


def test_the_model_plays_every_act_of_the_machine() -> None:
    """Of the network it plays whether requests are carried out; an act of the job that it lacks fails in its scenario.

    A full disk refuses no step of a save: their records use the reserved space.
    """
    assert {*MACHINE, "fills the disk"} == {act.name for act in of("machine")}


def test_the_model_and_the_code_have_the_same_transitions() -> None:
    """The model refuses a transition that the code does not have; here: it makes each one that the code has."""
    protocols = [explored(scenario)[0] for scenario in SCENARIOS]
    taken = set().union(*(protocol.taken for protocol in protocols))
    assert taken == {(old, new) for old, following in TRANSITIONS.items() for new in following}
    # A removed directory has a model of its own; an item that an unanswered create makes late is a stray in this model.
    assert set().union(*(protocol.verbs for protocol in protocols)) == set(Verb)
    assert set().union(*(protocol.fates for protocol in protocols)) == set(Fate)

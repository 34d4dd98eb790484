"""The protocol loses nothing, whatever happens; and not one of its rules can be left out."""

from __future__ import annotations

from functools import cache
from typing import get_args

import pytest
from tests.component.protocol.model import SCENARIOS, Fate, Rule, Scenario, Search, World
from tests.component.protocol.protocol import MACHINE, Protocol
from tests.component.protocol.removal import Removal
from tests.support.interferences import of

from jobfs.state.records import TRANSITIONS, Stage, Verb

#: What each rule says, the switch that leaves it out, and a scenario that needs it. R12 has a model of its own.
RULES: dict[str, tuple[Rule, str]] = {
    "R1: judge after the move, by content": ("r1", "the job overwrites after a promote whose answer was lost"),
    "R1: a base that is young proves nothing by its updatedAt": (
        "r1_young", "the job overwrites within one tick of the server's clock"),
    "R1: what was renamed while a request on it may be carried out is no base": (
        "r1_renamed", "a promote is carried out late, when T has been moved away and is saved anew"),
    "R2: what was placed here is told by its bytes": ("r2", "the job overwrites after a promote whose answer was lost"),
    "R3: placed is synced before the first delete": ("r3", "power is lost while an aside is deleted late"),
    "R4: what no record names is exposed, never deleted": ("r4", "a state directory is lost for good"),
    "R5: promote's 400 is news": ("r5", "the job moves the target away during a long upload"),
    "R6: a lost promote is judged by getting H": ("r6", "the source of a rename over vanishes"),
    "R6: only its own hidden name says that H was not promoted": ("r6_own", "two mounts save one file, an answer is lost"),
    "R7: look again before a delete": ("r7_look", "an open file is removed while the job replaces it"),
    "R7: wait for requests that went unanswered": (
        "r7_wait", "a promote is carried out late, the job deletes and overwrites"),
    "R7: a delete that had to wait for its connection needs another look": (
        "r7_sent", "an open file is removed, and its delete waits for a connection"),
    "R8: the find that names A is fresh": ("r8", "the job moves the target away during a long upload"),
    "R8: it is fresh when the set-aside is sent": (
        "r8_sent", "the job moves the target away while its set-aside waits for a connection"),
    "R9: new files are created hidden": ("r9", "a new file that the job creates too"),
    "R10: unlink is recorded before it returns": ("r10", "unlinked while it is saved"),
    "R10: a cancelled save takes back only what is its own": ("r10_ours", "unlinked while it is saved"),
    "R10: elsewhere than at T, what has the bytes of H is somebody else's": (
        "r10_place", "answers take time, unlinked, the job moves away"),
    "R10: where H was not placed, what was set aside goes back": (
        "r10_back", "answers take time, unlinked, the job overwrites"),
    "R11: undo begins with the newest aside": ("r11", "the source of a rename over vanishes"),
    "R13: only where a move onto an item was seen to be refused": (
        "r13_refuses", "set-aside and promote overlap, on a server whose moves replace"),
    "R13: a refused promote came too early, and says no more": (
        "r13_early", "set-aside and promote overlap, the job overwrites and creates"),
    "R13: promote's own answer alone says whether H is at T": (
        "r13_own", "set-aside and promote overlap, power is lost, the job overwrites"),
    "R13: an aside whose set-aside was not answered stays in the journal": (
        "r13_kept", "set-aside and promote overlap, an answer is lost, the job deletes and creates"),
}  # fmt: skip


@cache
def explored(scenario: Scenario) -> tuple[Protocol, Search[World]]:
    """A scenario with all rules, searched whole."""
    protocol = Protocol(scenario)
    return protocol, protocol.explore()


def violating(rule: str) -> tuple[Scenario, Search[World]]:
    """The scenario that needs this part of a rule, and the shortest way in which it goes wrong without."""
    switch, name = RULES[rule]
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    return scenario, Protocol(scenario, switch).explore()


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_with_all_rules_no_schedule_fails(scenario: Scenario) -> None:
    """save/protocol.md: any interleaving of a save with the job, deaths, losses of power and of answers."""
    _, found = explored(scenario)
    print(f"{scenario.name}: {found.states} states")
    assert not found.violation, f"{scenario.name}\n{found.story()}"


def test_with_all_rules_removing_a_directory_deletes_no_file_of_the_job() -> None:
    """save/protocol.md R12."""
    found = Removal().explore()
    print(f"{found.states} states")
    assert not found.violation, found.story()


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_some_schedule_fails(rule: str) -> None:
    """save/protocol.md, The rules: none of them is decoration."""
    scenario, found = violating(rule)
    print(f"without {rule}: {scenario.name}, {len(found.schedule)} steps\n{found.story()}")
    assert found.violation


def test_without_r12_removing_a_directory_deletes_a_file_of_the_job() -> None:
    """save/protocol.md R12: a directory is moved out of the job's reach, looked at again, then deleted."""
    found = Removal("r12").explore()
    print(f"without R12: {len(found.schedule)} steps\n{found.story()}")
    assert found.violation == "j is lost"


def test_each_rule_of_the_protocol_has_a_switch() -> None:
    switches = {switch for switch, _ in RULES.values()} | {"r12"}
    assert switches == {*get_args(Rule)} - {""}
    assert {rule.partition(":")[0] for rule in RULES} == {f"R{number}" for number in range(1, 14)} - {"R12"}


def test_the_model_plays_every_act_of_the_machine() -> None:
    """Of the network it plays whether requests are carried out; an act of the job that it lacks fails in its scenario."""
    assert MACHINE.keys() == {act.name for act in of("machine")}


def test_the_model_and_the_code_have_the_same_transitions() -> None:
    """The model refuses a transition that the code does not have; here: it makes each one that the code has."""
    taken: set[tuple[Stage, Stage]] = set()
    verbs: set[Verb] = set()
    fates: set[Fate] = set()
    for scenario in SCENARIOS:
        protocol, _ = explored(scenario)
        taken |= protocol.taken
        verbs |= protocol.verbs
        fates |= protocol.fates
    assert taken == {(old, new) for old, following in TRANSITIONS.items() for new in following}
    assert verbs == set(Verb)
    # A removed directory has a model of its own; an item that an unanswered create makes late is a stray in this model.
    assert fates == set(Fate)

"""The states of a save."""

from __future__ import annotations

import re
from itertools import product

import pytest

from jobfs.nodes import Item, Kind
from jobfs.writeback import records
from jobfs.writeback.records import TRANSITIONS, Base, Save, SaveKind, State


@pytest.mark.parametrize(("old", "new"), list(product(State, State)))
def test_a_save_goes_only_where_the_diagram_has_an_arrow(old: State, new: State) -> None:
    """save-protocol, The steps."""
    save = Save(1, SaveKind.SAVE, "file", old)
    if new in TRANSITIONS[old]:
        save.become(new)
        assert save.state is new
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            save.become(new)
        assert save.state is old


def test_every_state_has_its_transitions_and_a_way_to_the_end() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        reached = {state}
        for _ in State:
            reached |= {new for old in reached for new in TRANSITIONS[old]}
        assert State.DONE in reached


def test_promoted_is_never_taken_back() -> None:
    """save-protocol R3: once a delete may have been sent, nothing is restored."""
    assert TRANSITIONS[State.PROMOTED] == {State.DONE}


def test_the_diagram_has_every_state_and_every_transition_of_the_code() -> None:
    """The arrows in the module's docstring, one a line: the code has no other, and lacks none."""
    arrows = re.findall(r"^ +(\w+) +──► (\w+) +\w", records.__doc__ or "", re.MULTILINE)
    drawn = [(State[old], State[new]) for old, new in arrows]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(old, new) for old, following in TRANSITIONS.items() for new in following}
    assert {state for arrow in drawn for state in arrow} == set(State)


def test_a_base_is_made_of_what_was_shown() -> None:
    item = Item("1", Kind.FILE, "a", updated_at="now", size=3)
    assert Base.of(item, sha256="ff", young=True) == Base("1", "now", 3, "ff", True)
    assert Base.of(item) == Base("1", "now", 3)
    assert Base().id == ""


def test_every_kind_of_record_has_a_key_of_its_own() -> None:
    for kind, key in records.KEYS.items():
        assert key in kind.__dataclass_fields__

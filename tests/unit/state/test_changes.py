"""What is under way at a name: which Change comes first, and what an operation waits for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from tests.support.items import TID, hidden

from jobfs.api import deadline
from jobfs.errors import OutOfTimeError
from jobfs.nodes import Item, Kind
from jobfs.state import State, edit
from jobfs.state.records import Aside, Stage, Verb


def test_changes_of_one_target_finish_in_order_and_cancelled_ones_first(state: State) -> None:
    file = state.new_local_file(Kind.FILE, "a")
    first, second, third = (state.plan_change(Verb.PUT, "a", each) for each in (file, None, None))
    assert (state.changes.files_sent_to("a"), state.changes.files_sent_to("b")) == ([file], [])
    other, predecessor = state.plan_change(Verb.PUT, "b"), state.changes.predecessor_of
    assert [*map(predecessor, (first, second, third, other))] == [None, first, first, None]
    state.apply_in_memory(third, stage=Stage.CANCELLED)
    assert [*map(predecessor, (first, second, third))] == [third, third, None]
    state.end_change(third)
    state.apply_in_memory(first, stage=Stage.STAGED)
    state.apply_in_memory(first, stage=Stage.PLACED)
    assert predecessor(second) is None, "the server has the outcome: only cleanup is left"
    state.apply_in_memory(second, target="b")
    assert predecessor(other) is second, "the older one goes first, wherever it was made"


def test_a_name_can_be_taken_from_a_change_that_was_not_started(state: State) -> None:
    """vfs/semantics.md 4.34: a new file of the old name makes a removal void, and takes the item as its base."""
    change = state.plan_change(Verb.REMOVE, "a", shows={"a": None}, stage=Stage.STAGED)
    assert (state.changes.find_unstarted("a"), state.changes.in_flight_at(Verb.REMOVE, "a")) == (change, [])
    change.started = True
    assert state.changes.find_unstarted("a") is None
    assert state.changes.in_flight_at(Verb.REMOVE, "a") == [change]
    state.apply_in_memory(change, stage=Stage.PLACED)
    assert (state.changes.find_unstarted("a"), state.changes.in_flight_at(Verb.REMOVE, "a")) == (None, [])


#: Names beside a reserved `dir`: if an operation waits for it, and if a change of the server may begin.
@pytest.mark.parametrize(
    ("name", "waits", "free"),
    [("dir", True, False), ("dir/a", True, False), ("", True, True), ("dirt", False, True), ("b", False, True)],
)  # fmt: skip
def test_changes_of_related_names_run_in_turn(state: State, name: str, waits: bool, free: bool) -> None:
    """design.md, Things to know: operations reserve names and all below; vfs/semantics.md 4: a rename sees nothing half saved."""

    def waited(seconds: float) -> bool:
        with suppress(OutOfTimeError), deadline.limit_time(seconds), state.reservations.hold(name):
            return False
        return True

    against = state.reservations.find_blocking
    with ThreadPoolExecutor(1) as elsewhere:
        with state.reservations.hold("dir", "dir/a/b"):
            assert elsewhere.submit(waited, 0.01).result(20) is waits
            assert (elsewhere.submit(against, name).result(20) is None) is free
            assert against(name) is None, "who holds the name may have it saved"
            later = elsewhere.submit(waited, 10)
            assert later.done() is False or not waits
        assert later.result(5) is False, "it continues when the name is free"
        assert elsewhere.submit(against, name).result(20) is None


@pytest.mark.parametrize(
    ("verb", "stage", "values", "holds"),
    [
        (Verb.PUT, Stage.STAGING, {}, False), (Verb.PUT, Stage.STAGING, {"started": True}, True),
        (Verb.REMOVE, Stage.STAGED, {}, True), (Verb.PUT, Stage.PLACED, {"started": True}, False),
        (Verb.PUT, Stage.CANCELLED, {"started": True}, False), (Verb.PUT, Stage.CANCELLED, {"tid": "t"}, True),
    ],
)  # fmt: skip
def test_a_change_holds_its_names_from_its_first_request_to_its_end(
    state: State, verb: Verb, stage: Stage, values: dict[str, Any], holds: bool
) -> None:
    """save/protocol.md, The steps: a directory is renamed or removed once nothing below it is at work."""
    change = state.plan_change(verb, "dir/a", stage=stage, shows={"shown/b": None}, **values)
    for path in ("", "dir", "dir/a", "shown"):
        assert state.changes.holding_names("other", path) == [change] * holds, path
    assert state.changes.holding_names("di", "dir/a/b", "dirt") == []
    in_flight = verb is Verb.PUT and stage is Stage.STAGING and holds
    assert state.changes.in_flight_at(Verb.PUT, "dir/a") == [change] * in_flight
    assert state.changes.in_flight_at(Verb.MOVE, "dir/a") + state.changes.in_flight_at(Verb.PUT, "dir") == []


def test_a_hidden_item_is_explained_as_long_as_a_change_names_it(state: State) -> None:
    """save/protocol.md R4: a record explains its staged item, its asides, and the items of its transaction."""

    def explained() -> list[str]:
        made = Item("made", Kind.FILE, hidden("dir/a"))
        others = [Item(name, Kind.FILE, f"dir/{name}") for name in ("staged", "aside", "")]
        return [item.id for item in (made, *others) if state.changes.explains(item)]

    change, other = (state.plan_change(Verb.PUT, "dir/a") for _ in range(2))
    assert explained() == []
    state.write(edit(change, tid=TID))
    assert explained() == ["made"]
    state.write(edit(change, stage=Stage.STAGED, staged_id="staged", asides=[Aside("aside", "dir/aside")]))
    state.apply_in_memory(other, asides=[Aside("aside", "dir/aside")])
    assert explained() == ["made", "staged", "aside"]
    state.write(edit(change, tid="", staged_id="", asides=[]))
    assert explained() == ["aside"], "the other Change has set it aside, too"
    state.end_change(other)
    assert explained() == []

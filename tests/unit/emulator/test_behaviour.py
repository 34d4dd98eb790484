from __future__ import annotations

from typing import Any

import pytest

from jobfs.emulator import Behaviour
from jobfs.emulator.behaviour import SWITCHES


def test_a_change_gives_another_behaviour_and_leaves_the_first() -> None:
    first = Behaviour()
    second = first.changed(find="prefix", latency=5)
    assert (first.find, second.find, second.latency) == ("exact", "prefix", 5)


@pytest.mark.parametrize(
    "changes",
    [{"find": "regex"}, {"page_cap": 101}, {"no_such": 1}, {"latency": -1}, {"ranges": 1}, {"page_cap": 1.5}],
)
def test_what_cannot_be_is_one_sentence_that_names_the_switch(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))) as refusal:
        Behaviour().changed(**changes)
    assert "\n" not in str(refusal.value)


def test_every_switch_has_a_description_for_its_option() -> None:
    assert all(field.description for field in SWITCHES.values())

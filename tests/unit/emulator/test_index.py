from __future__ import annotations

import random
from typing import Any

from jobfs.emulator import Behaviour, StoredItem
from jobfs.emulator.index import Index

RNG = random.Random(0)


def item(
    item_id: str, path: str, kind: Any = "file", lifecycle: str = "expertJob", moment: int = 0
) -> StoredItem:
    return StoredItem(item_id, kind, path, "user", lifecycle, "readWrite", moment, moment)


def filled(*items: StoredItem) -> Index:
    index = Index()
    for one in items:
        index.put(one)
    return index


def test_the_jobs_own_item_is_shown_before_a_default_and_then_the_newest() -> None:
    index = filled(
        item("own", "p", moment=1),
        item("older", "p"),
        item("default", "p", lifecycle="application", moment=9),
    )
    shown = index.shown("p")
    assert shown is not None
    assert shown.id == "own"
    assert index.shown("q") is None


def test_an_unstable_order_differs_and_moves_nothing_far() -> None:
    index = filled(*(item(str(number), str(number)) for number in range(40)))
    unstable = Behaviour(list_order="unstable")
    rounds = [[int(one.id) for one in index.ordered(unstable, RNG)] for _ in range(5)]
    assert len({tuple(order) for order in rounds}) > 1
    for order in rounds:
        assert sorted(order) == list(range(40))
        assert all(abs(place - number) < 4 for place, number in enumerate(order))

"""Names that another mount is about to bring back."""

from __future__ import annotations

import pytest

from jobfs import names
from jobfs.names import Role
from jobfs.namespace.tree import Tree, missed_names

from .world import item

MOUNT, SAVE = "0" * 12, "1" * 16


def hidden(target: str, role: Role) -> str:
    return names.hidden_path(target, MOUNT, SAVE, role)


@pytest.mark.parametrize("role", [Role.ASIDE, Role.STAGED])
@pytest.mark.parametrize("path", ["x.txt", "a/b/x.txt", "a/" + "n" * 255, "a/" + "ä" * 127])
def test_a_vanished_name_with_a_hidden_item_beside_it_is_missed(path: str, role: Role) -> None:
    """save-protocol: a mount that misses a name it knew asks once more before it believes it."""
    before = Tree.of([item(path, "1"), item("other", "2")])
    now = Tree.of([item(hidden(path, role), "1")])
    assert missed_names(before, now) == [path]


def test_a_vanished_name_without_a_hidden_item_is_believed() -> None:
    before = Tree.of([item("x", "1"), item("a/x", "2")])
    assert missed_names(before, Tree.of([item(hidden("y", Role.ASIDE), "3")])) == []
    assert missed_names(before, Tree.of([item(hidden("b/x", Role.ASIDE), "3")])) == []
    assert missed_names(before, Tree()) == []


def test_a_name_that_is_there_is_not_missed() -> None:
    both = [item("x", "1"), item(hidden("x", Role.ASIDE), "2")]
    assert missed_names(Tree.of(both), Tree.of(both)) == []


def test_a_directory_on_its_way_out_is_not_missed() -> None:
    before = Tree.of([item("x", "1")])
    assert missed_names(before, Tree.of([item(hidden("x", Role.REMOVED), "1")])) == []
    assert missed_names(before, Tree.of([item(hidden("x", Role.TRIED), "2")])) == [], (
        "nor what a try has made"
    )
    below = f"{hidden('d', Role.REMOVED)}/{hidden('x', Role.ASIDE)}"
    assert missed_names(before, Tree.of([item(below, "1")])) == []

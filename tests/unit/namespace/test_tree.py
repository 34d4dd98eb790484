"""The tree against its definition: what is shown follows from the set of items, not from how it came about."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from tests.support.items import hidden

from jobfs import names
from jobfs.names import HiddenName, Role
from jobfs.namespace.tree import (
    ItemTree,
    hiding_parent,
    is_never_shown,
    missing_save_targets,
    never_shown_reason,
    pick_shown,
)
from jobfs.nodes import Item, Kind, Lifecycle, implicit_directory

from .world import item

HIDDEN = str(HiddenName("0" * 12, "1" * 16, Role.ASIDE, "x.txt"))
PATHS = ["/".join(parts) for depth in (1, 2, 3) for parts in itertools.product(("a", "b"), repeat=depth)]
PATHS += [HIDDEN, f"a/{HIDDEN}", f"a/{HIDDEN}/b", f"a/{HIDDEN}//b", f"b/a/{HIDDEN}"]
PATHS += [".jobfs", ".jobfs/x", "a/../b", "a//b"]

items = st.builds(
    Item, id=st.sampled_from("123456"), kind=st.sampled_from(Kind), path=st.sampled_from(PATHS),
    lifecycle=st.sampled_from(Lifecycle), updated_ns=st.integers(0, 2), updated_at=st.just(""),
)  # fmt: skip
changes = st.tuples(st.sampled_from(("put", "drop", "settle")), items)


def by_definition(everything: list[Item], path: str) -> Item | None:
    """What is shown at `path`, from the statements of vfs/semantics.md 1."""
    if never_shown_reason(path) or hiding_parent(path) is not None:
        return None
    visible = [
        one for one in everything if never_shown_reason(one.path) is None and hiding_parent(one.path) is None
    ]
    here = [one for one in visible if one.path == path]
    bases = [hiding_parent(one.path) for one in everything if never_shown_reason(one.path) is None]
    living = any(names.is_below(one.path, path) for one in visible)
    living = living or any(base is not None and names.is_below(base, path) for base in bases)
    if living:
        return pick_shown([one for one in here if one.is_dir]) or implicit_directory(path)
    return pick_shown(here) or (implicit_directory(path) if path in bases else None)


def known_below(one: Item, path: str) -> bool:
    """True if an item that lies below `path` shows that it is a directory."""
    base = hiding_parent(one.path)
    return never_shown_reason(one.path) is None and (base is None or names.is_at_or_below(base, path))


def apply(tree: ItemTree, model: dict[str, Item], operation: str, one: Item) -> None:
    if operation == "drop":
        tree.remove(one.id)
        model.pop(one.id, None)
    elif operation == "put":
        tree.put(one)
        model[one.id] = one
    elif never_shown_reason(one.path) is None and hiding_parent(one.path) is None:
        tree.replace_at(one.path, [one])
        for other in [other for other in model.values() if other.path == one.path]:
            del model[other.id]
        model[one.id] = one


@settings(max_examples=300, deadline=None)
@given(st.lists(changes, max_size=25))
def test_the_tree_agrees_with_its_items_after_any_changes(done: list[tuple[str, Item]]) -> None:
    """vfs/semantics.md 1: overlay, implicit directories, hostile and hidden names, after any changes."""
    tree, model = ItemTree(), dict[str, Item]()
    for operation, one in done:
        apply(tree, model, operation, one)
    everything = list(model.values())
    assert {one.id: one for one in tree.items()} == model
    for path in PATHS:
        assert tree.shown_at(path) == by_definition(everything, path), path
        children = {child: by_definition(everything, f"{path}/{child}") for child in ("a", "b", "x")}
        shown_there = {name: one for name, one in children.items() if one is not None}
        assert tree.children(path) == shown_there, path
        below = [one for one in everything if names.is_below(one.path, path)]
        assert sorted(one.id for one in tree.descendants(path)) == sorted(one.id for one in below), path
        assert tree.has_descendants(path) is any(known_below(one, path) for one in below), path
    assert sorted(one.id for one in tree.descendants("")) == sorted(model)
    veiled = [
        one.id
        for one in everything
        if never_shown_reason(one.path) is None and hiding_parent(one.path) is not None
    ]
    assert sorted(one.id for one in tree.hidden_items()) == sorted(veiled)
    empty = ItemTree()
    for one in tree.items():
        tree.remove(one.id)
    assert vars(tree) == vars(empty)


def test_a_directory_shadows_a_file_while_it_has_content() -> None:
    """vfs/semantics.md 1.17: a directory shadows a file where something lives under it."""
    file = item("x", "1")
    tree = ItemTree.from_items([file, item("x/y", "2")])
    assert tree.shown_at("x") == implicit_directory("x")
    assert tree.shadowed_paths() == [("x", "another item is shown at this path")]
    tree.remove("2")
    assert tree.shown_at("x") == file
    assert tree.shadowed_paths() == []


def test_a_directory_moves_with_its_content_even_below_itself() -> None:
    tree = ItemTree.from_items([item("d", "1", kind=Kind.DIRECTORY), item("d/x", "2"), item("d/e/y", "3")])
    tree.put_moved(item("d/e", "1", kind=Kind.DIRECTORY), "d")
    assert {one.path for one in tree.items()} == {"d/e", "d/e/x", "d/e/y"}


def test_the_next_newest_of_several_items_is_shown_once_the_newest_has_gone() -> None:
    """vfs/semantics.md 1.16."""
    tree = ItemTree.from_items(item("x", str(number), updated_ns=number) for number in (3, 1, 2))
    tree.remove("3")
    assert tree.shown_at("x") == item("x", "2", updated_ns=2)


HOSTILE = ["a/../b", "./a", "a//b", "a\0b", "a" * 256, ".jobfs", ".jobfs/job.json", ""]
ORDINARY = ["a", "a/.jobfs", ".jobfsx", ".jobfs-notes.txt", "a" * 255, "ä/ö", "..."]
VEILED = {HIDDEN: "", f"a/b/{HIDDEN}": "a/b", f"a/{HIDDEN}/c/{HIDDEN}": "a"}


@pytest.mark.parametrize("path", [*HOSTILE, *ORDINARY, *VEILED])
def test_hostile_and_hidden_paths_are_not_shown_and_ordinary_ones_are(path: str) -> None:
    """vfs/semantics.md 1.20: hostile paths are never shown. vfs/semantics.md 4.25: nor is an item called .jobfs.

    vfs/semantics.md 4: nor hidden items and what is below; a name that merely begins with .jobfs- is an ordinary file.
    """
    assert (never_shown_reason(path) is not None) is (path in HOSTILE)
    assert hiding_parent(path) == VEILED.get(path)
    assert is_never_shown(path) is (path not in ORDINARY)


@pytest.mark.parametrize(("path", "missed"), [
    (hidden("a/x"), True),
    (hidden("a/x", Role.STAGED), True),
    (hidden("a/x", Role.REMOVED), False),
    (hidden("a/x", Role.TRIED), False),
    (hidden("a/y"), False),
    (hidden("x"), False),
    (f"{hidden('d', Role.REMOVED)}/{hidden('x')}", False),
])  # fmt: skip
def test_a_name_missing_beside_the_hidden_item_of_a_save_is_missed(path: str, missed: bool) -> None:
    """save/protocol.md: a mount that misses a name it knew asks once more before it believes it."""
    before, now = (
        ItemTree.from_items([item("a/x", "1"), item("other", "2")]),
        ItemTree.from_items([item(path, "1")]),
    )
    assert missing_save_targets(before, now) == (["a/x"] if missed else [])
    assert missing_save_targets(now, now) == []

"""The changes from one tree to another: applied in order to a disk with the first, they yield the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from jobfs import names
from jobfs.namespace.differences import Difference, DifferenceKind, list_differences
from jobfs.namespace.tree import ItemTree, is_never_shown
from jobfs.nodes import Item, Kind

from .test_tree import items
from .world import item

#: What a program sees of an item.
Look = tuple[str, str, int | None]

#: Few paths and mostly files, so that there are often two items at one path, or one item at two.
places = st.sampled_from(("a", "b", "a/a", "a/b", "b/a"))
kinds = st.sampled_from((Kind.FILE, Kind.FILE, Kind.FILE, Kind.DIRECTORY))
contents = st.builds(
    replace, items, id=st.sampled_from("123"), path=places, kind=kinds, updated_at=st.sampled_from("xy")
)
one_of_a_kind = st.one_of(contents, contents, contents, items).map(
    lambda one: replace(one, id=one.id + one.kind)
)
several = st.lists(one_of_a_kind, max_size=4)
trees = several.map(ItemTree.from_items)
FOLDER = item("d", kind=Kind.DIRECTORY)


def look(shown: Item) -> Look:
    return ("", shown.id, None) if shown.is_dir else (shown.id, shown.updated_at, shown.size)


def looks(tree: ItemTree) -> dict[str, Look]:
    """What is shown at every path, as one walks it."""
    found, pending = dict[str, Look](), [""]
    while pending:
        directory = pending.pop()
        for name, child in tree.children(directory).items():
            found[path := names.join(directory, name)] = look(child)
            pending += [path] * child.is_dir
    return found


def carried_out(disk: dict[str, Look], news: Sequence[Difference]) -> dict[str, Look]:
    """What a disk shows after these changes; each has to be one that a disk allows."""
    for happened, path, there, old, before in news:
        assert bool(old) is (happened is DifferenceKind.RENAMED)
        assert (disk[path] if happened is DifferenceKind.CHANGED else None) == (before and look(before))
        gone = {DifferenceKind.DELETED: path, DifferenceKind.RENAMED: old}.get(happened)
        if gone is not None:
            was = disk.pop(gone)
            assert was[0] == there.id if old else was == look(there), f"{gone} is something else"
            assert not any(names.is_below(other, gone) for other in disk), f"{gone} is not empty"
        if happened is DifferenceKind.CHANGED:
            assert (disk[path][0] == "") is there.is_dir, path
            assert disk[path] != look(there), path
        elif happened is not DifferenceKind.DELETED:
            assert path not in disk, f"{path} is taken"
            above = names.parent(path)
            assert not above or not disk[above][0], f"{path} has no directory"
        if happened is not DifferenceKind.DELETED:
            disk[path] = look(there)
    return disk


def renames(before: Mapping[str, Look], now: Mapping[str, Look]) -> set[tuple[str, str]]:
    """Old and new path of every file with another path, both of them free otherwise, whose directories stay."""
    to = {seen[0]: path for path, seen in now.items() if seen[0]}
    pairs = [(path, to[seen[0]]) for path, seen in before.items() if seen[0] in to and to[seen[0]] != path]
    stay = {path for path in before.keys() & now.keys() if not before[path][0] and not now[path][0]} | {""}
    return {
        (old, new) for old, new in pairs
        if old not in now and new not in before and {names.parent(old), names.parent(new)} <= stay
    }  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(several, several, st.dictionaries(st.sampled_from("123456"), st.one_of(places, st.none())))
def test_applying_the_differences_in_order_yields_the_new_tree(
    first: list[Item], then: list[Item], elsewhere: dict[str, str | None]
) -> None:
    """vfs/semantics.md 7: deletions, creations, renames and new contents; no name that is never shown."""
    kept = [(one, elsewhere.get(one.id[0], one.path)) for one in first]
    before, now = (
        ItemTree.from_items(first),
        ItemTree.from_items([*(replace(one, path=at) for one, at in kept if at), *then]),
    )
    was, is_now = looks(before), looks(now)
    differ = now.items_before_differences(before)
    assert differ == {at: before.shown_at(at) for at in was.keys() | is_now if was.get(at) != is_now.get(at)}
    news = list_differences(differ, now.shown_at)
    assert carried_out(dict(was), news) == is_now
    assert {(one.old, one.path) for one in news if one.old} == renames(was, is_now)
    kinds = [DifferenceKind.DELETED, DifferenceKind.CREATED, DifferenceKind.RENAMED, DifferenceKind.CHANGED]
    assert [one.kind for one in news] == sorted((one.kind for one in news), key=kinds.index)
    assert not any(is_never_shown(path) for one in news for path in (one.path, one.old) if path)


@given(trees)
def test_equal_trees_have_no_differences(tree: ItemTree) -> None:
    assert ItemTree.from_items(tree.items()).items_before_differences(tree) == {}
    assert list_differences({path: tree.shown_at(path) for path in looks(tree)}, tree.shown_at) == []


def reported(before: Sequence[Item], now: Sequence[Item]) -> list[tuple[str, str, str]]:
    """Return the differences of two sets of items: kind, path, old path."""
    first, second = ItemTree.from_items(before), ItemTree.from_items(now)
    return [
        (one.kind, one.path, one.old)
        for one in list_differences(second.items_before_differences(first), second.shown_at)
    ]


@pytest.mark.parametrize(("before", "now", "expected"), [
    ([item("x", "1")], [item("y", "1")], ["renamed y x"]),
    ([item("x", "1"), FOLDER], [item("d/y", "1"), FOLDER], ["renamed d/y x"]),
    ([item("x", "1")], [item("d/y", "1"), FOLDER], ["deleted x", "created d", "created d/y"]),
    ([item("d/y", "1"), FOLDER], [item("x", "1")], ["deleted d/y", "deleted d", "created x"]),
    ([item("d/y", "1"), FOLDER], [item("d", "1")], ["deleted d/y", "deleted d", "created d"]),
    ([item("d/y", "1"), item("z", "2")], [item("y", "1"), item("d", "2")],
     ["deleted d/y", "deleted z", "deleted d", "created d", "created y"]),
    ([item("d/y", "1"), FOLDER], [item("e/y", "1"), replace(FOLDER, path="e")],
     ["deleted d/y", "deleted d", "created e", "created e/y"]),
    ([item("x", "1"), item("y", "2")], [item("y", "1")], ["deleted x", "changed y"]),
    ([item("x", "1")], [item("x", "2")], ["changed x"]),
    ([item("x", "1")], [item("x", "1", size=5)], ["changed x"]),
    ([FOLDER], [replace(FOLDER, updated_at="later")], []),
    ([FOLDER], [replace(FOLDER, id="other")], ["changed d"]),
])  # fmt: skip
def test_each_kind_of_difference_is_found(before: list[Item], now: list[Item], expected: list[str]) -> None:
    """vfs/semantics.md 7: a file is renamed where its directories stay; a directory is deleted, and created with all in it."""
    assert [" ".join(filter(None, one)) for one in reported(before, now)] == expected

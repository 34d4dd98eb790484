"""What others than this mount have changed in the tree, as a list (vfs/semantics.md 7). Pure: no I/O, clock or lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from jobfs import names
from jobfs.namespace.tree import ROOT, Tree
from jobfs.nodes import Item


class Happened(StrEnum):
    """What has happened to a file or a directory."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    RENAMED = "renamed"


class News(NamedTuple):
    """One change: `item` as it is shown now, or as it was shown last if it is gone; `old`: the path before a rename.

    `was`: what was there before a change; of a directory, the other one in whose place it is.
    """

    happened: Happened
    path: str
    item: Item
    old: str = ""
    was: Item | None = None


def differing(before: Tree, now: Tree) -> dict[str, Item | None]:
    """The paths at which two trees show different things, each with what the first one shows there."""
    shown = ((path, before.at(path)) for path in now.differing(before))
    return {path: was for path, was in shown if differ(was, now.at(path))}


def differ(was: Item | None, now: Item | None) -> bool:
    """True if a program that looks would see a difference. Of directories only which they are is compared."""
    if was is None or now is None:
        return was is not now
    if was.is_dir or now.is_dir:
        return was.is_dir is not now.is_dir or was.id != now.id
    return was.id != now.id or was.updated_at != now.updated_at or was.size != now.size


def difference(before: Mapping[str, Item | None], at: Callable[[str], Item | None]) -> list[News]:
    """The changes from what was shown `before` to what is shown now, `at` a path, in an order that a disk allows.

    Deletions come first, the deepest first; then creations, directories before what is in them; then renames; then new contents.
    A file was renamed if its item is at another path, and both its directories were there before and still are. So a directory
    with another name is told as its deletion and creation, and as that of all in it.
    """
    now = {path: at(path) for path in before}
    arrived = {item.id: path for path, item in now.items() if item is not None and _is_file(item)}
    gone: list[News] = []
    come: list[News] = []
    renamed: list[News] = []
    changed: list[News] = []
    renames: set[str] = set()
    for path, was in before.items():
        to = arrived.get(was.id, path) if was is not None and _is_file(was) else path
        if to != path and now[path] is None and before[to] is None and _stays(path, to, before, at):
            there = now[to]
            assert there is not None
            renamed.append(News(Happened.RENAMED, to, there, path))
            renames |= {path, to}
    for path, was in before.items():
        there = now[path]
        if path in renames or not differ(was, there):
            continue
        if was is not None and there is not None and was.is_dir is there.is_dir:
            changed.append(News(Happened.CHANGED, path, there, was=was))
            continue
        if was is not None:
            gone.append(News(Happened.DELETED, path, was))
        if there is not None:
            come.append(News(Happened.CREATED, path, there))
    gone.sort(key=_order, reverse=True)
    come.sort(key=_order)
    return [*gone, *come, *renamed, *changed]


def _is_file(item: Item) -> bool:
    return not item.is_dir


def _order(news: News) -> tuple[int, str]:
    return news.path.count("/"), news.path


def _stays(old: str, new: str, before: Mapping[str, Item | None], at: Callable[[str], Item | None]) -> bool:
    """True if the directories of both paths were there before, and still are."""
    return all(
        _is_directory(at(parent)) and _is_directory(before.get(parent, ROOT))
        for parent in (names.parent(old), names.parent(new))
    )


def _is_directory(item: Item | None) -> bool:
    return item is not None and item.is_dir

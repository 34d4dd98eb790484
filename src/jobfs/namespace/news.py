"""What others than this mount have changed in the tree, as a list (vfs/semantics.md 7). Pure: no I/O, clock or lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeGuard

from jobfs import names
from jobfs.namespace.tree import ROOT, differ
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


def difference(before: Mapping[str, Item | None], at: Callable[[str], Item | None]) -> list[News]:
    """The changes from what was shown `before` to what is shown now, `at` a path, in an order that a disk allows.

    Deletions come first, the deepest first; then creations, directories before what is in them; then renames; then new contents.
    A file was renamed if its item is at another path, and both its directories were there before and still are. So a directory
    with another name is told as its deletion and creation, and as that of all in it.
    """
    now = {path: at(path) for path in before}
    renamed = _renames(before, now, at)
    explained = {path for news in renamed for path in (news.old, news.path)}
    others: dict[Happened, list[News]] = {happened: [] for happened in Happened}
    for path in before.keys() - explained:
        for news in _at_one_path(path, before[path], now[path]):
            others[news.happened].append(news)
    gone = sorted(others[Happened.DELETED], key=_order, reverse=True)
    come = sorted(others[Happened.CREATED], key=_order)
    changed = sorted(others[Happened.CHANGED], key=_order)
    return [*gone, *come, *renamed, *changed]


def _renames(
    before: Mapping[str, Item | None], now: Mapping[str, Item | None], at: Callable[[str], Item | None]
) -> list[News]:
    """Return the files whose item is shown at another path than before."""
    arrived = {item.id: (path, item) for path, item in now.items() if _is_file(item)}
    renamed = []
    for path, was in before.items():
        if was is None or not _is_file(was) or now[path] is not None or was.id not in arrived:
            continue
        to, item = arrived[was.id]
        if before[to] is None and _stays(path, to, before, at):
            renamed.append(News(Happened.RENAMED, to, item, path))
    return renamed


def _at_one_path(path: str, was: Item | None, now: Item | None) -> Iterator[News]:
    """Yield what has happened at a path to whatever is not renamed."""
    if not differ(was, now):
        return
    if was is not None and now is not None and was.is_dir is now.is_dir:
        yield News(Happened.CHANGED, path, now, was=was)
        return
    if was is not None:
        yield News(Happened.DELETED, path, was)
    if now is not None:
        yield News(Happened.CREATED, path, now)


def _is_file(item: Item | None) -> TypeGuard[Item]:
    return item is not None and not item.is_dir


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

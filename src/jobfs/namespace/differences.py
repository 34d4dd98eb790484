"""What others than this mount have changed in the tree, as a list (vfs/semantics.md 7). Pure: no I/O, clock or lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeGuard

from jobfs import names
from jobfs.namespace.tree import ROOT, looks_different
from jobfs.nodes import Item


class DifferenceKind(StrEnum):
    """What has happened to a file or a directory."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    RENAMED = "renamed"


class Difference(NamedTuple):
    """One change: `item` as it is shown now, or as it was shown last if it is gone; `old`: the path before a rename.

    `previous`: what was there before a change; of a directory, the other one in whose place it is.
    """

    kind: DifferenceKind
    path: str
    item: Item
    old: str = ""
    previous: Item | None = None


def compare(before: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]) -> list[Difference]:
    """The changes from what was shown `before` to what is shown now, `shown_at` a path, in an order that a disk allows.

    Deletions come first, the deepest first; then creations, directories before what is in them; then renames; then new contents.
    A file was renamed if its item is at another path, and both its directories were there before and still are. So a directory
    with another name is told as its deletion and creation, and as that of all in it.
    """
    now = {path: shown_at(path) for path in before}
    renamed = _find_renames(before, now, shown_at)
    explained = {path for news in renamed for path in (news.old, news.path)}
    others: dict[DifferenceKind, list[Difference]] = {happened: [] for happened in DifferenceKind}
    for path in before.keys() - explained:
        for news in _compare_at_path(path, before[path], now[path]):
            others[news.kind].append(news)
    gone = sorted(others[DifferenceKind.DELETED], key=_sort_key, reverse=True)
    come = sorted(others[DifferenceKind.CREATED], key=_sort_key)
    changed = sorted(others[DifferenceKind.CHANGED], key=_sort_key)
    return [*gone, *come, *renamed, *changed]


def _find_renames(
    before: Mapping[str, Item | None], now: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]
) -> list[Difference]:
    """Return the files whose item is shown at another path than before."""
    arrived = {item.id: (path, item) for path, item in now.items() if _is_file(item)}
    renamed = []
    for path, was in before.items():
        if was is None or not _is_file(was) or now[path] is not None or was.id not in arrived:
            continue
        to, item = arrived[was.id]
        if before[to] is None and _are_parents_unchanged(path, to, before, shown_at):
            renamed.append(Difference(DifferenceKind.RENAMED, to, item, path))
    return renamed


def _compare_at_path(path: str, was: Item | None, now: Item | None) -> Iterator[Difference]:
    """Yield what has happened at a path to whatever is not renamed."""
    if not looks_different(was, now):
        return
    if was is not None and now is not None and was.is_dir is now.is_dir:
        yield Difference(DifferenceKind.CHANGED, path, now, previous=was)
        return
    if was is not None:
        yield Difference(DifferenceKind.DELETED, path, was)
    if now is not None:
        yield Difference(DifferenceKind.CREATED, path, now)


def _is_file(item: Item | None) -> TypeGuard[Item]:
    return item is not None and not item.is_dir


def _sort_key(difference: Difference) -> tuple[int, str]:
    return difference.path.count("/"), difference.path


def _are_parents_unchanged(
    old: str, new: str, before: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]
) -> bool:
    """True if the directories of both paths were there before, and still are."""
    return all(
        _is_directory(shown_at(parent)) and _is_directory(before.get(parent, ROOT))
        for parent in (names.parent(old), names.parent(new))
    )


def _is_directory(item: Item | None) -> bool:
    return item is not None and item.is_dir

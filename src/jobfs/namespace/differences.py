"""Lists what others than this mount have changed in the tree (vfs/semantics.md 7). Pure: no I/O, clock or lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeGuard

from jobfs import names
from jobfs.namespace.tree import ROOT, looks_different
from jobfs.nodes import Item


class DifferenceKind(StrEnum):
    """What happened to a file or a directory."""

    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"
    RENAMED = "renamed"


class Difference(NamedTuple):
    """One change at a path.

    `item`: what the path shows now, or showed last if it is gone. `old`: the path before a rename. `previous`: what the path
    showed before a change; for a directory, the different one that it replaces.
    """

    kind: DifferenceKind
    path: str
    item: Item
    old: str = ""
    previous: Item | None = None


def list_differences(
    before: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]
) -> list[Difference]:
    """Return the changes from what was shown `before` to what `shown_at` shows now, in an order that a disk allows.

    Deletions come first, the deepest first; then creations, each directory before its contents; then renames; then new
    contents. A file was renamed if its item is at another path, and the directories of both paths existed before and still
    exist. So a directory with a new name is listed as deleted and created, and so is everything in it.
    """
    now = {path: shown_at(path) for path in before}
    renamed = _find_renames(before, now, shown_at)
    explained = {path for difference in renamed for path in (difference.old, difference.path)}
    others: dict[DifferenceKind, list[Difference]] = {kind: [] for kind in DifferenceKind}
    for path in before.keys() - explained:
        for difference in _compare_at_path(path, before[path], now[path]):
            others[difference.kind].append(difference)
    deleted = sorted(others[DifferenceKind.DELETED], key=_sort_key, reverse=True)
    created = sorted(others[DifferenceKind.CREATED], key=_sort_key)
    changed = sorted(others[DifferenceKind.CHANGED], key=_sort_key)
    return [*deleted, *created, *renamed, *changed]


def _find_renames(
    before: Mapping[str, Item | None], now: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]
) -> list[Difference]:
    """Return the renames: each file whose item was shown at another path before."""
    arrived = {item.id: (path, item) for path, item in now.items() if _is_file(item)}
    renamed = []
    for path, was in before.items():
        if was is None or not _is_file(was) or now[path] is not None or was.id not in arrived:
            continue
        to, item = arrived[was.id]
        if before[to] is None and _are_parents_unchanged(path, to, before, shown_at):
            renamed.append(Difference(DifferenceKind.RENAMED, to, item, path))
    return renamed


def _compare_at_path(path: str, before: Item | None, now: Item | None) -> Iterator[Difference]:
    """Yield the differences at a path that no rename explains."""
    if not looks_different(before, now):
        return
    if before is not None and now is not None and before.is_dir is now.is_dir:
        yield Difference(DifferenceKind.CHANGED, path, now, previous=before)
        return
    if before is not None:
        yield Difference(DifferenceKind.DELETED, path, before)
    if now is not None:
        yield Difference(DifferenceKind.CREATED, path, now)


def _is_file(item: Item | None) -> TypeGuard[Item]:
    return item is not None and not item.is_dir


def _sort_key(difference: Difference) -> tuple[int, str]:
    return difference.path.count("/"), difference.path


def _are_parents_unchanged(
    old: str, new: str, before: Mapping[str, Item | None], shown_at: Callable[[str], Item | None]
) -> bool:
    """Return whether the directories of both paths existed before, and still exist."""
    return all(
        _is_directory(shown_at(parent)) and _is_directory(before.get(parent, ROOT))
        for parent in (names.parent(old), names.parent(new))
    )


def _is_directory(item: Item | None) -> bool:
    return item is not None and item.is_dir

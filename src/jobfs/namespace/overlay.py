"""Which of several items at one path is shown, and which paths are never shown (semantics.md section 1)."""

from __future__ import annotations

from collections.abc import Iterable

from jobfs import names
from jobfs.nodes import Item, Lifecycle

_HIDDEN_MARK = ".jobfs-"
_CONTROL_PREFIX = names.CONTROL_DIR + "/"

Rank = tuple[bool, int, str, str, str]


def rank(item: Item) -> Rank:
    """Sorts what is shown last: the job's own before the workspace's defaults, the newest within each.

    The id decides what nothing else decides, so that every reader of the same items shows the same one.
    """
    own = item.lifecycle is Lifecycle.EXPERT_JOB
    return (own, item.updated_ns, item.updated_at, item.created_at, item.id)


def shown(items: Iterable[Item]) -> Item | None:
    """The item that is shown of those at one path, nothing living under it; None if there is none (section
    1).
    """
    return max(items, key=rank, default=None)


def refusal(path: str) -> str | None:
    """Why an item's path is not shown though it is no hidden name, or None (section 1, Hostile paths)."""
    reason = names.hostile(path)
    if reason is None and (path == names.CONTROL_DIR or path.startswith(_CONTROL_PREFIX)):
        return "is where every mount shows its own state"
    return reason


def veil(path: str) -> str | None:
    """The directory that holds the outermost hidden name in `path`, or None if nothing in it is hidden."""
    if _HIDDEN_MARK not in path:
        return None
    directory = ""
    for part in path.split("/"):
        if names.parse_hidden(part) is not None:
            return directory
        directory = names.join(directory, part)
    return None


def never_shown(path: str) -> bool:
    """True if no item at `path` is ever shown, whatever the server has."""
    return refusal(path) is not None or veil(path) is not None

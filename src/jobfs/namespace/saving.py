"""Names that are missed because another mount is in the middle of a save (save-protocol.md, last section)."""

from __future__ import annotations

from collections.abc import Iterator

from jobfs import names
from jobfs.namespace.overlay import veil
from jobfs.namespace.tree import Tree
from jobfs.nodes import Item

#: A hidden name this close to the limit, in bytes, may have been cut in the middle of a character.
_CUT = 3
#: What a save leaves beside its target.
_SAVES = (names.Role.STAGED, names.Role.ASIDE)


def missed_names(before: Tree, now: Tree) -> list[str]:
    """Paths that were shown and are not, while a hidden item beside them says that they are being saved."""
    missed: dict[str, None] = {}
    for item in now.hidden():
        for path in _targets(item, before):
            if before.at(path) is not None and now.at(path) is None:
                missed[path] = None
    return list(missed)


def _targets(item: Item, before: Tree) -> Iterator[str]:
    """The paths that a hidden item may be the new or the old content of."""
    directory, name = names.parent(item.path), names.basename(item.path)
    hidden = names.parse_hidden(name)
    if hidden is None or hidden.role not in _SAVES or veil(directory) is not None:
        return
    yield names.join(directory, hidden.name)
    if (
        len(name.encode()) >= names.NAME_MAX - _CUT
        or names.path_length(item.path) >= names.PATH_MAX - 1 - _CUT
    ):
        yield from (
            names.join(directory, other) for other in before.children(directory) if _cut(other, hidden.name)
        )


def _cut(name: str, start: str) -> bool:
    return name != start and name.startswith(start)

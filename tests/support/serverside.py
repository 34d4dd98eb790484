"""The server's side, for tests: the tree as a person sees it, and the hidden items."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from jobfs.emulator import Server

from .judge import is_hidden


def hidden(server: Server) -> list[str]:
    """Return the paths of all items with a hidden name, or below one."""
    return sorted(item.path for item in server.store.items() if is_hidden(item.path))


def found_on(server: Server) -> dict[str, list[bytes | None]]:
    """Return by path the bytes (None: a directory) of every item, hidden ones too; the shown one last."""
    found: dict[str, list[bytes | None]] = {}
    for item in sorted(server.store.items(), key=lambda item: item.updated_us):
        with suppress(KeyError, OSError):  # deleted since the items were listed
            content = None if item.is_dir else server.store.content_of(item.id)
            found.setdefault(item.path, []).append(content)
    return found


def visible(server: Server) -> dict[str, bytes | None]:
    """Return path and bytes (None: a directory) of every item that is not hidden."""
    return {path: states[-1] for path, states in found_on(server).items() if not is_hidden(path)}


def check_tree(server: Server, tree: Mapping[str, bytes | None] | None) -> None:
    """Check that the server has this tree, if one is given."""
    if tree is not None:
        found = visible(server)
        assert found == tree, f"{found} instead of {tree}"


def below(server: Server, directory: str) -> dict[str, bytes | None]:
    """Return what is visible below a directory, by paths relative to it."""
    prefix = directory + "/"
    return {
        path.removeprefix(prefix): content
        for path, content in visible(server).items()
        if path.startswith(prefix)
    }


def untimed(tree: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Return the tree with the times removed from the names of second versions."""
    return {
        re.sub(r"(\.conflict|\.recovered)-\d{8}T\d{6}Z", r"\1", path): data for path, data in tree.items()
    }


def contents(server: Server) -> list[bytes]:
    """Return the bytes of every file that is not hidden, sorted."""
    return sorted(content for content in visible(server).values() if content is not None)


def doubled(server: Server) -> list[str]:
    """Return the paths with more than one item."""
    paths = [item.path for item in server.store.items()]
    return sorted({path for path in paths if paths.count(path) > 1})

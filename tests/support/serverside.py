"""What a test wants to know of the server's side: the tree as a person sees it, and what is hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping

from jobfs import names
from jobfs.emulator import Server


def hidden(server: Server) -> list[str]:
    """Paths of all items with a hidden name, or below one."""
    return sorted(
        item.path
        for item in server.store.items()
        if any(names.parse_hidden_name(part) is not None for part in item.path.split("/"))
    )


def visible(server: Server) -> dict[str, bytes | None]:
    """Path to bytes (None: a directory) of everything but hidden items."""
    tree: dict[str, bytes | None] = {}
    for item in sorted(server.store.items(), key=lambda item: item.updated_us):
        if not any(names.parse_hidden_name(part) is not None for part in item.path.split("/")):
            try:
                tree[item.path] = None if item.is_dir else server.store.content_of(item.id)
            except (KeyError, OSError):  # deleted since the items were counted
                continue
    return tree


def below(server: Server, directory: str) -> dict[str, bytes | None]:
    """The same for what is below a directory, by names that begin there."""
    prefix = directory + "/"
    return {
        path.removeprefix(prefix): content
        for path, content in visible(server).items()
        if path.startswith(prefix)
    }


def untimed(tree: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """The same with the names of second versions as they would be without their times."""
    return {
        re.sub(r"(\.conflict|\.recovered)-\d{8}T\d{6}Z", r"\1", path): data for path, data in tree.items()
    }


def contents(server: Server) -> list[bytes]:
    """The bytes of every file that is not hidden, sorted."""
    return sorted(content for content in visible(server).values() if content is not None)


def doubled(server: Server) -> list[str]:
    """Paths at which more than one item stands."""
    paths = [item.path for item in server.store.items()]
    return sorted({path for path in paths if paths.count(path) > 1})

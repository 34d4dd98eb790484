"""What the server of a load run has at the end, and what a local directory has, for the judge (tests/support/judge.py)."""

from __future__ import annotations

from pathlib import Path

from tests.support.judge import State, is_hidden

from jobfs import names

from .server import ServerProcess


def found_on(server: ServerProcess) -> dict[str, list[State]]:
    """Return what is there, except hidden items."""
    found: dict[str, list[State]] = {}
    for row in server.rows():
        if not is_hidden(row.path):
            found.setdefault(row.path, []).append(None if row.is_dir else server.content(row))
    return found


def tree_of(directory: Path, prefix: str = "") -> dict[str, State]:
    """Return the files and directories of a local directory, with their paths below `prefix`."""
    return {
        names.join(prefix, str(path.relative_to(directory))): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }

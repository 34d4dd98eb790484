"""What has to be on the server in the end: for each path the contents that it may have."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from jobfs import names

from .server import ServerProcess


class Absent(Enum):
    """Nothing at that path."""

    ABSENT = "nothing"


ABSENT = Absent.ABSENT

#: A file's bytes, None for a directory, or nothing at all.
State = bytes | None | Absent

#: By path, what the server has there: more than one state where items stand at the same path.
Found = dict[str, list[State]]


class Expected:
    """A path that was never named must not be there. Each path belongs to one thread at a time."""

    def __init__(self) -> None:
        self._states: dict[str, list[State]] = {}

    def put(self, path: str, *states: State) -> None:
        """Acknowledged: one of these and nothing else is there now."""
        self._states[path] = list(states)

    def put_all(self, tree: Mapping[str, State]) -> None:
        """The same for many."""
        self._states.update({path: [state] for path, state in tree.items()})

    def doubt(self, path: str, state: State) -> None:
        """A call failed: this may be there now, or what was."""
        states = self._states.setdefault(path, [ABSENT])
        if state not in states:
            states.append(state)

    def forget(self, path: str) -> None:
        """Acknowledged: nothing is there any more."""
        self.put(path, ABSENT)

    def at(self, path: str) -> list[State]:
        """What may be there."""
        return list(self._states.get(path, [ABSENT]))

    def move(self, old: str, new: str) -> None:
        """Acknowledged: a file has another name."""
        self.put(new, *self.at(old))
        self.forget(old)

    def differences(self, found: Found) -> list[str]:
        """One sentence for each path that is missing, differs, stands there twice or should not be there."""
        texts = [f"{path}: there {len(states)} times" for path, states in found.items() if len(states) > 1]
        for path in sorted({*self._states, *found}):
            states = self.at(path)
            there: State = found[path][0] if path in found else ABSENT
            if there not in states:
                texts.append(f"{path}: {_shown(there)}, not {' or '.join(map(_shown, states))}")
        return texts

    def lost(self, found: Found) -> list[str]:
        """One sentence for each path whose content is neither there nor under another name, though it has to be somewhere."""
        everywhere = {state for states in found.values() for state in states}
        return [
            f"{path}: {' or '.join(map(_shown, states))}"
            for path, states in sorted(self._states.items())
            if ABSENT not in states and not any(state in everywhere for state in states)
        ]


def found_on(server: ServerProcess) -> Found:
    """What is there, but for hidden items."""
    found: Found = {}
    for row in server.rows():
        if not any(names.parse_hidden_name(part) for part in row.path.split("/")):
            found.setdefault(row.path, []).append(None if row.is_dir else server.content(row))
    return found


def tree_of(directory: Path, prefix: str = "") -> dict[str, State]:
    """The files and directories of a local directory, with their paths below `prefix`."""
    return {
        names.join(prefix, str(path.relative_to(directory))): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


def _shown(state: State) -> str:
    if state is None:
        return "a directory"
    return "nothing" if isinstance(state, Absent) else f"{len(state)} bytes ({state[:24]!r})"

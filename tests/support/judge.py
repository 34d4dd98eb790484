"""The judge of all tests in which something happens to a save: what counts as kept.

A harness notes what each side has done. In the end the judge is given all that the server has, and reports in sentences

- a path with something else than it may have, something at a path that nobody used, and two items at one path;
- bytes that must exist, and are nowhere: at a path that must have them, or displaced by a save that had not read them;
- second versions without a cause, or more of them than causes;
- torn bytes, and what is left under a hidden name.

What only one harness knows (a late request that may change a name, scratch names) is an override of one of the `may_` methods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from jobfs import names


class Absent(Enum):
    """Nothing at a path."""

    ABSENT = "nothing"


ABSENT = Absent.ABSENT

#: What is at a path: a file's bytes or what stands for them, None for a directory, or nothing at all.
State = Hashable

#: By path, every item of the server: more than one state where items share the path.
Found = Mapping[str, Sequence[State]]


class Effect(NamedTuple):
    """What an act has changed at one path. `same`: the item is still the same one; `shared`: the path has several items."""

    path: str
    before: State
    after: State
    same: bool = False
    shared: bool = False


class Judge:
    """What each path may have in the end, and which versions must be kept beside it; a path never named must be free."""

    absent: State = ABSENT
    directory: State = None

    def __init__(self, there: Mapping[str, State] | None = None) -> None:
        """`there`: what each path has at first."""
        self._may: dict[str, list[State]] = {}
        self._displaced: Counter[tuple[str, State]] = Counter()
        self._owed: list[tuple[State, str]] = []
        self._excused: set[State] = set()
        self._shared: set[str] = set()
        self.put_all(there or {})

    # What has happened

    def put(self, path: str, *states: State) -> None:
        """Note what was acknowledged: one of these states, and no other, is at the path."""
        self._may[path] = list(states)

    def put_all(self, tree: Mapping[str, State]) -> None:
        """Note the same for many paths."""
        for path, state in tree.items():
            self.put(path, state)

    def doubt(self, path: str, state: State) -> None:
        """Note a call that failed: this may be at the path, or what was there before."""
        states = self._may.setdefault(path, [self.absent])
        if state not in states:
            states.append(state)

    def forget(self, path: str) -> None:
        """Note that nothing is at the path any longer."""
        self.put(path, self.absent)

    def move(self, old: str, new: str) -> None:
        """Note a rename of a file that was acknowledged."""
        self.put(new, *self.at(old))
        self.forget(old)

    def displace(self, path: str, state: State) -> None:
        """Note a version that a save replaces unread: exactly one second version of the path has it."""
        self._displaced[path, state] += 1

    def owe(self, path: str, state: State) -> None:
        """Note that this must exist, at the path or elsewhere."""
        self._owed.append((state, path))

    def excuse(self, states: Iterable[State]) -> None:
        """Note that second versions with these may be there, any number: nothing told the mount who had seen them."""
        self._excused |= {*states}

    def act(self, effects: Iterable[Effect]) -> None:
        """Note what the job did: where it saw what a path has in the end, it wins; else it is displaced."""
        for path, before, after, _, shared in effects:
            if before in self.at(path):
                self.put(path, after)
                self._shared |= {path} if shared else set()
            elif after not in (before, self.absent, self.directory):
                self.displace(path, after)

    @property
    def promises(self) -> int:
        """Return how many versions were noted that must exist apart from what a path must have."""
        return self._displaced.total() + len(self._owed)

    def at(self, path: str) -> list[State]:
        """Return what may be at the path."""
        return list(self._may.get(path, [self.absent]))

    # What only one harness knows

    def may_stand(self, path: str, state: State) -> bool:
        """Return whether this may be at the path."""
        return state in self.at(path)

    def may_be_kept(self, label: str, path: str, state: State) -> bool:
        """Return whether a second version of the file at `path` is explained without `displace`."""
        return state in self._excused

    def owed(self) -> Iterator[tuple[Collection[State], str]]:
        """Yield what must exist: states, one of which is enough, and where they were promised."""
        for path, states in sorted(self._may.items()):
            if self.absent not in states:
                yield states, path
        for state, path in self._owed:
            yield [state], path

    def parts(self, state: State) -> Iterable[State]:
        """Return what must exist of a state, each by itself."""
        return (state,)

    def flaws(self, path: str, state: State) -> list[str]:
        """Return what is torn in a state."""
        return []

    def describe(self, state: State) -> str:
        if state == self.directory:
            return "a directory"
        return (
            f"{len(state)} bytes ({state[:24]!r})"
            if isinstance(state, bytes)
            else str(getattr(state, "value", state))
        )

    # What is there

    def violations(self, found: Found) -> list[str]:
        """Return a sentence for each thing that is wrong."""
        shown = {path: states for path, states in found.items() if not is_hidden(path)}
        wrong = [*self.differences(shown), *self.lost(shown), *self.torn(shown)]
        return [*leftovers({path: states for path, states in found.items() if path not in shown}), *wrong]

    def differences(self, found: Found) -> list[str]:
        """Return a sentence for each path with something else than it may have, or without a cause for it."""
        above = {path[:end] for path in found for end, character in enumerate(path) if character == "/"}
        wrong = []
        for path in sorted({*self._may, *found}):
            there = found[path][-1] if path in found else self.absent
            explained = self.may_stand(path, there) or (there == self.directory and path in above)
            if not explained and (path in self._may or second_version(path) is None):
                wrong.append(f"{path}: {self.describe(there)}; promised: {self._alternatives(self.at(path))}")
        twice = {path: states for path, states in found.items() if path not in self._shared}
        return [*doubled(twice), *wrong, *self.needless(found)]

    def needless(self, found: Found) -> list[str]:
        """Return a sentence for each second version that has no cause."""
        causes, wrong = Counter(self._displaced), []
        for path, states in found.items():
            kept = second_version(path)
            if kept is not None and path not in self._may:
                for state in states:
                    causes[kept[1], state] -= 1
                    if causes[kept[1], state] < 0 and not self.may_be_kept(*kept, state):
                        wrong.append(f"{path}: {self.describe(state)}, a second version without a cause")
        return wrong

    def lost(self, found: Found) -> list[str]:
        """Return a sentence for each content that must exist, and does not."""
        everywhere = {part for states in found.values() for state in states for part in self.parts(state)}
        lost = [
            f"LOST: {self._alternatives(states)}, promised at {where}"
            for states, where in self.owed()
            if everywhere.isdisjoint(states)
        ]
        kept = Counter(
            (second[1], state)
            for path, states in found.items()
            if (second := second_version(path)) is not None
            for state in states
        )
        missing = self._displaced - kept
        return lost + [f"LOST: {self.describe(state)}, displaced at {path}" for path, state in missing]

    def torn(self, found: Found) -> list[str]:
        """Return a sentence for each flaw in a file."""
        return [
            f"{path}: {flaw}"
            for path, states in found.items()
            for state in states
            for flaw in self.flaws(path, state)
        ]

    def _alternatives(self, states: Iterable[State]) -> str:
        return " or ".join(sorted(map(self.describe, states)))


def is_hidden(path: str) -> bool:
    """Return whether a path, or a directory above it, has a hidden name."""
    return any(names.parse_hidden_name(part) for part in path.split("/"))


def second_version(path: str) -> tuple[str, str] | None:
    """Return the label of a second version, or of a directory above that is one, and the path of its file; None for others."""
    ends = [*(at for at, character in enumerate(path) if character == "/"), len(path)]
    found = ((names.parse_second_version(path[:end]), path[end:]) for end in ends)
    return next(((kept[0], kept[1] + rest) for kept, rest in found if kept is not None), None)


def leftovers(found: Found) -> list[str]:
    """Return a sentence for each item with a hidden name, and each path that more than one item has."""
    return [*(f"{path}: left under a hidden name" for path in found if is_hidden(path)), *doubled(found)]


def doubled(found: Found) -> list[str]:
    """Return a sentence for each path that more than one item has."""
    return [f"{path}: there {len(states)} times" for path, states in found.items() if len(states) > 1]


def differences_shown(
    server: Mapping[str, State], mount: Mapping[str, State], absent: State = ABSENT
) -> Iterator[tuple[str, State, State]]:
    """Yield each path where the mount and the server differ, with what each has there."""
    for path in sorted({*server, *mount}):
        here, there = mount.get(path, absent), server.get(path, absent)
        if here != there:
            yield path, here, there

"""What the journal holds: one dataclass a table, and the states of a save.

The states of a transaction (save-protocol.md, The steps); every arrow is one journal commit::

    (new) ──► STAGING ◄──► STAGED ──► PROMOTED ──► DONE
                 │            │                      ▲
                 └────────────┴─────► CANCELLED ─────┘

    STAGING   ──► STAGED      H is on the server
    STAGING   ──► CANCELLED   unlinked, or a mkdir that was given up
    STAGING   ──► DONE        unlinked or killed before anything was acknowledged or sent
    STAGED    ──► STAGING     H vanished: again from the local bytes; or undone, and they are kept
    STAGED    ──► PROMOTED    H is at the target
    STAGED    ──► CANCELLED   unlinked, or a mkdir that was given up
    STAGED    ──► DONE        a rename that was undone
    PROMOTED  ──► DONE        all that was set aside is judged
    CANCELLED ──► DONE        all that was begun is taken back

A save and a mkdir begin as STAGING, a rename over as STAGED (its source is H), an unlink of an open file as CANCELLED.
DONE is not stored as a record: the record goes, its attempts stay as tombstones.
A save that was refused for good stays STAGING with `refused` set: its bytes are kept, nothing is out on the server.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from jobfs import names
from jobfs.nodes import Item, Kind, Lifecycle, Permission


class State(StrEnum):
    """Where a transaction stands; the order is that of save-protocol.md."""

    STAGING = "staging"
    STAGED = "staged"
    PROMOTED = "promoted"
    CANCELLED = "cancelled"
    DONE = "done"


#: Every transition that may happen; `Save.become` refuses any other.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.STAGING: frozenset({State.STAGED, State.CANCELLED, State.DONE}),
    State.STAGED: frozenset({State.STAGING, State.PROMOTED, State.CANCELLED, State.DONE}),
    State.PROMOTED: frozenset({State.DONE}),
    State.CANCELLED: frozenset({State.DONE}),
    State.DONE: frozenset(),
}


class SaveKind(StrEnum):
    """What a transaction does to its target."""

    SAVE = "save"
    """New content for `target`, from the local bytes of a generation."""
    MKDIR = "mkdir"
    """A new directory at `target`; never replaces anything."""
    RENAME = "rename"
    """The item at `source` moves over whatever stands at `target`."""
    REMOVE = "remove"
    """The item set aside is deleted: an unlink whose bytes are still needed by an open handle."""


class Fate(StrEnum):
    """What becomes of an item that was set aside."""

    JUDGE = "judge"
    """Delete it if it is what the save was based on, else keep both (R1)."""
    DELETE = "delete"
    """The user deleted it."""
    RETURN = "return"
    """Not decided: goes back to its name unless the unlink is confirmed."""


@dataclass(slots=True)
class Base:
    """The version that a save replaces (save-protocol.md, Vocabulary); an empty id means none.

    `updated_at` is empty when the version was ours and its answer was lost (R2). `young`: at the time it was opened it was
    less than 2 s old, so that equal timestamps do not prove equal bytes (R1).
    """

    id: str = ""
    updated_at: str = ""
    size: int | None = None
    sha256: str = ""
    young: bool = False

    @classmethod
    def of(cls, item: Item, *, sha256: str | None = None, young: bool = False) -> Base:
        """The base that a shown item makes."""
        return cls(item.id, item.updated_at, item.size, sha256 or "", young)


@dataclass(slots=True)
class Save:
    """One transaction record. Times in nanoseconds since the epoch unless named otherwise, sizes in bytes.

    `synced`: the local bytes of `generation` were seen to be on the disk. `boot`: which run of this machine wrote them;
    after another one, bytes that were not synced prove nothing. `made`: seconds since the epoch. `direct`: it may have
    been created at its target (R9).
    """

    seq: int
    kind: SaveKind
    target: str
    state: State = State.STAGING
    ino: int = 0
    generation: int = 0
    source: str = ""
    size: int = 0
    sha256: str = ""
    permission: Permission | None = None
    lifecycle: Lifecycle | None = None
    mode: int = -1
    uid: int = -1
    gid: int = -1
    atime_ns: int = 0
    mtime_ns: int = 0
    base: Base = field(default_factory=Base)
    tid: str = ""
    staged_id: str = ""
    staged_updated_at: str = ""
    direct: bool = False
    synced: bool = False
    boot: str = ""
    made: float = 0.0
    attempts: int = 0
    refused: str = ""
    refused_errno: int = 0

    def become(self, state: State) -> None:
        """Go to another state; raises ValueError for a transition that the diagram does not have."""
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"a save can't go from {self.state} to {state}")
        self.state = state

    def as_of(self, state: State) -> Save:
        """A copy in another state, for the journal: the transaction itself is there once that has it. Raises as `become`."""
        copy = replace(self)
        copy.become(state)
        return copy


@dataclass(slots=True)
class Aside:
    """An item that stood at a save's target and was moved to a hidden name.

    `moved`: seen at its hidden name. `unsure_until`: seconds since the epoch; until then a request on it whose answer
    never came may still be carried out (R7). `updated_at` is that of the set-aside's answer, empty if unknown.
    """

    id: str
    seq: int
    name: str
    order: int = 0
    path: str = ""
    kind: Kind = Kind.FILE
    fate: Fate = Fate.JUDGE
    moved: bool = False
    size: int | None = None
    updated_at: str = ""
    lifecycle: Lifecycle = Lifecycle.EXPERT_JOB
    permission: Permission = Permission.READ_WRITE
    unsure_until: float = 0.0


@dataclass(slots=True)
class Attempt:
    """A transaction id that was used in a hidden name; without a record of its save it is a tombstone (R4)."""

    tid: str
    seq: int
    made: float = 0.0


@dataclass(slots=True)
class Removed:
    """A directory moved to a hidden name by rmdir, to be deleted once it is seen empty (R12)."""

    id: str
    name: str
    path: str
    moved: bool = False
    unsure_until: float = 0.0


#: In `Remembered`: nothing is remembered. As a time it is one nanosecond before the epoch, which nobody sets.
UNSET = -1


@dataclass(slots=True)
class Renaming:
    """A directory that is being renamed on the server: what is unsent below it goes along if it was."""

    item_id: str
    old: str
    new: str


@dataclass(slots=True)
class Remembered:
    """What the API can't hold of an item and this machine remembers (semantics.md section 2).

    `mode` and `permission` go together: the mode as it was set while the item had that permission. The times, and
    the hash of the bytes that a save of ours sent, hold for the version `updated_at` only. -1 (UNSET) means: nothing
    remembered. `known`: the hash of what this machine has last sent to the item, or known of it, whatever version that is
    now (R2).
    """

    item_id: str
    ino: int = 0
    mode: int = -1
    permission: Permission = Permission.READ_WRITE
    uid: int = -1
    gid: int = -1
    atime_ns: int = -1
    mtime_ns: int = -1
    updated_at: str = ""
    sha256: str = ""
    ctime_ns: int = -1
    known: str = ""


@dataclass(slots=True)
class LocalEntry:
    """What lives on this machine only: a scratch name, a symbolic link, or an alias of an item under a scratch name.

    `link` is what a symbolic link says, "" for everything else. An alias (`item_id`) stands for the item that is still at
    `origin` on the server.
    """

    path: str
    ino: int
    kind: Kind = Kind.FILE
    generation: int = 0
    mode: int = 0o644
    uid: int = -1
    gid: int = -1
    atime_ns: int = 0
    mtime_ns: int = 0
    item_id: str = ""
    origin: str = ""
    made: float = 0.0
    link: str = ""

    def moved(self, old: str, new: str) -> LocalEntry:
        """The record once the directory `old` is `new`."""
        path, origin = (
            names.moved(name, old, new) if names.under(name, old) else name
            for name in (self.path, self.origin)
        )
        return replace(self, path=path, origin=origin)


@dataclass(slots=True)
class Conflict:
    """A second version of a file that was kept beside it, for a person to look at."""

    path: str
    origin: str
    reason: str
    made: float = 0.0


Record = Save | Aside | Attempt | Removed | Renaming | Remembered | LocalEntry | Conflict

#: The key column of each table.
KEYS: dict[type[Any], str] = {
    Save: "seq",
    Aside: "id",
    Attempt: "tid",
    Removed: "id",
    Renaming: "item_id",
    Remembered: "item_id",
    LocalEntry: "path",
    Conflict: "path",
}

#: What tells a record from a later one under its key, where one item may have several in turn: each has its own hidden name.
DISTINCT: dict[type[Any], str] = {Aside: "name", Removed: "name"}

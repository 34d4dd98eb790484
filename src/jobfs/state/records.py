"""What the journal holds, a dataclass a table: the object in memory and the record on disk are one type (design.md). Handles,
each of which is one open of a File, are here too.

How a File and a Change live: see the pictures in tables.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol

from jobfs import names
from jobfs.nodes import Item, Kind, Lifecycle, Permission

if TYPE_CHECKING:
    from jobfs.api.deadline import Deadline
    from jobfs.errors import JobfsError
    from jobfs.state.localbytes import LocalGeneration
    from jobfs.state.processes import Process

#: Flags of an open that may change the file.
CHANGES = os.O_ACCMODE | os.O_TRUNC
#: Nothing is remembered. As a time it is one nanosecond before the epoch, which nobody sets.
UNSET = -1


class Stage(StrEnum):
    """How far a Change has come."""

    STAGING = "staging"
    STAGED = "staged"
    PLACED = "placed"
    CANCELLED = "cancelled"
    DONE = "done"


#: Every transition that may happen; `State.apply_in_memory` refuses any other.
TRANSITIONS: dict[Stage, frozenset[Stage]] = {
    Stage.STAGING: frozenset({Stage.STAGED, Stage.CANCELLED, Stage.DONE}),
    Stage.STAGED: frozenset({Stage.STAGING, Stage.PLACED, Stage.CANCELLED, Stage.DONE}),
    Stage.PLACED: frozenset({Stage.DONE}),
    Stage.CANCELLED: frozenset({Stage.PLACED, Stage.DONE}),
    Stage.DONE: frozenset(),
}


class Verb(StrEnum):
    """What a Change does to its target: new content from the local bytes of a generation; a new directory, which never replaces
    anything; the item at `source` moves over whatever stands there; nothing takes its place.
    """

    PUT = "put"
    MKDIR = "mkdir"
    MOVE = "move"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Base:
    """The version that a save replaces (save/protocol.md, Vocabulary); an empty id means none.

    `racy`: equal timestamps do not prove equal bytes (R1, R2), because it was less than 2 s old when it was opened, was placed
    here, or was read some time before. `size` in bytes, None if not known.
    """

    id: str = ""
    updated_at: str = ""
    size: int | None = None
    sha256: str = ""
    racy: bool = False

    @classmethod
    def from_item(cls, item: Item, *, sha256: str = "", racy: bool = False) -> Base:
        """The base that a shown item makes."""
        return cls(item.id, item.updated_at, item.size, sha256, racy)

    def has_other_size(self, now: Item | Aside) -> bool:
        """True if an item has another size by now, as far as both are known."""
        return None not in (self.size, now.size) and now.size != self.size

    def matches_version(self, now: Item | Aside) -> bool:
        """True if an item has the same `updatedAt` and size as this version."""
        same = (now.id, now.updated_at) == (self.id, self.updated_at) and self.updated_at != ""
        return same and not self.has_other_size(now)

    def proves_unchanged(self, now: Item | Aside) -> bool:
        """True if the timestamp shows that this version was not written to (R1)."""
        return self.matches_version(now) and not self.racy


@dataclass(slots=True)
class Aside:
    """An item under a hidden name, until cleanup has looked at it; its Change says what becomes of it (save/cleanup.py).

    `moved`: seen at its hidden name. `unsure_until`: monotonic seconds; until then a request on it whose answer never came may
    still be carried out (R7); a restart begins to count anew. `updated_at` is that of the set-aside's answer, empty if not known.
    `size` in bytes.
    """

    id: str
    path: str
    kind: Kind = Kind.FILE
    moved: bool = False
    size: int | None = None
    updated_at: str = ""
    lifecycle: Lifecycle = Lifecycle.EXPERT_JOB
    permission: Permission = Permission.READ_WRITE
    unsure_until: float = 0.0

    def is_hidden_name_of(self, item: Item) -> bool:
        """True if an item has the hidden name, which stays the same when a directory above it is renamed."""
        return names.basename(item.path) == names.basename(self.path)

    def mark_moved(self, item: Item) -> None:
        """The server has it at its hidden name, as this item."""
        self.moved = True
        self.size, self.updated_at = item.size, item.updated_at


class Readable(Protocol):
    """Bytes that can be read at any offset: a cached version, or a generation of local bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at `offset`, at most `size`; short only at the end. Raises ApiError."""

    def close(self) -> None:
        """No longer needed."""


class Handle:
    """One open of a File, as far as saves know it; `OpenFile` in vfs/handles.py adds what its program sees.

    `item` is the version that it opened, or follows now; `racy`: its timestamp proves little (R1). `base_item` is the version
    that its program was shown: its saves are based on that. `content` holds the bytes of `item`.
    """

    def __init__(self, file: File, item: Item | None, flags: int) -> None:
        self.file = file
        self.item = self.base_item = item
        self.readable = flags & os.O_ACCMODE != os.O_WRONLY
        self.writable = flags & CHANGES != 0
        self.append = flags & os.O_APPEND != 0
        self.racy = False
        self.content: Readable | None = None
        #: The process that opened it, None if that is not known.
        self.process: Process | None = None

    def drop_content(self) -> None:
        """The bytes that it opened are not read any more."""
        content, self.content = self.content, None
        if content is not None:
            content.close()

    def continue_with(self, item: Item, content: Readable) -> None:
        """The written bytes are the version `item` now. The caller has the File's lock."""
        self.drop_content()
        self.content = content
        self.item = self.base_item = item
        self.racy = True

    def follow_rename(self, item: Item) -> None:
        """Its item got another name through this mount. What its program was shown stays what its saves are based on: the answer
        may show the `updatedAt` of bytes that the job has written since, so after this only bytes tell (R1).
        """
        if self.item is not None and self.item.id == item.id:
            self.item = item


#: Marks a field that the journal does not hold.
_MEMORY = {"memory": True}


@dataclass(slots=True, eq=False)
class File:
    """A file, directory or symbolic link of which this machine knows more than the server.

    `path`: its name here; None once it is unlinked and only open. `item_id`: its item on the server, "" if only here.
    `generation` of the local bytes that were closed and not sent yet (0: none), `size` in bytes: more may stand behind these.
    `open_generation`: a generation that was begun and not closed yet (0: none). `never_sent`: on this machine only.
    `pending_permission`: the permission that its next save gives it. `boot`: in which run of this machine the bytes were closed,
    "" once they were seen on the disk: after another boot they prove nothing.
    `sha256`: the hash of the bytes that were last placed. `version`: the `updatedAt` for which that and the times hold. Times in
    nanoseconds since the epoch.
    """

    ino: int
    kind: Kind = Kind.FILE
    path: str | None = None
    item_id: str = ""
    version: str = ""
    sha256: str = ""
    mode: int = UNSET
    permission: Permission = Permission.READ_WRITE
    pending_permission: Permission | None = None
    uid: int = UNSET
    gid: int = UNSET
    atime_ns: int = UNSET
    mtime_ns: int = UNSET
    ctime_ns: int = UNSET
    generation: int = 0
    size: int = 0
    open_generation: int = 0
    boot: str = ""
    never_sent: bool = False
    link: str = ""
    base: Base = Base()
    refused: str = ""
    refused_errno: int = 0

    #: True once the journal has a row of it.
    recorded: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: How often its bytes were closed. Generations do not tell that: the numbers of closed ones do not always grow.
    close_count: int = field(default=0, metadata=_MEMORY, repr=False)
    #: The item as it was shown last; None if there is none, or it was not looked at since the mount began.
    item: Item | None = field(default=None, metadata=_MEMORY, repr=False)
    #: The bytes that are read and written here: those of `generation`, or of a later one that was not closed yet.
    local: LocalGeneration | None = field(default=None, metadata=_MEMORY, repr=False)
    #: Its Change, under way or to come.
    change: Change | None = field(default=None, metadata=_MEMORY, repr=False)
    #: One for each open of it.
    handles: list[Handle] = field(default_factory=list, metadata=_MEMORY, repr=False)
    #: Guards the bytes and handles; to change the generation, hold the state's lock too, which is taken after this one.
    lock: RLock = field(default_factory=RLock, metadata=_MEMORY, repr=False)
    #: Where it is shown now (see tables.py).
    shown_at: str | None = field(default=None, metadata=_MEMORY, repr=False)

    @property
    def needs_upload(self) -> bool:
        """True if bytes were closed here that the server does not have: a generation that no Change has placed."""
        return self.generation > 0 and self.is_visible_to_job

    @property
    def has_unclosed_bytes(self) -> bool:
        """True if something was written since it was last closed: a generation that the journal does not have, or more bytes."""
        local = self.local
        return local is not None and (
            local.generation != self.generation or (not self.never_sent and local.size > local.closed_size)
        )

    @property
    def needs_create(self) -> bool:
        """True for a directory that was acknowledged while the server could not be asked, and is not there yet."""
        return self.kind is Kind.DIRECTORY and self.recorded and not self.item_id and not self.never_sent

    @property
    def is_unsent(self) -> bool:
        """True if the server does not have what was acknowledged here."""
        return self.needs_upload or self.needs_create

    @property
    def is_visible_to_job(self) -> bool:
        """True if the job sees it, or will: it has a name, and is not of this machine only."""
        return self.path is not None and not self.never_sent

    @property
    def is_open_for_writing(self) -> bool:
        """True while a program has it open to write to it."""
        return any(handle.writable for handle in self.handles)

    @property
    def overrides_server(self) -> bool:
        """True if its path shows what this machine says of it, and not what the server says."""
        alone = self.kind is Kind.DIRECTORY and not self.item_id and self.item is None
        return self.never_sent or self.local is not None or alone

    @property
    def has_only_attributes(self) -> bool:
        """True if only what is remembered of its item goes with it: no bytes, also none that can't be read now, and no handle."""
        bytes_here = self.overrides_server or self.generation or self.open_generation
        return bool(self.item_id) and not (bytes_here or self.handles or self.change)

    def stale_fields(self, item: Item) -> dict[str, Any]:
        """The fields to forget because its item has another version now: its times, and the hash of its bytes."""
        if self.overrides_server or self.version == item.updated_at:
            return {}
        unset = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns"), UNSET)
        return {"version": item.updated_at, "sha256": "", **unset}


@dataclass(slots=True, eq=False)
class Change:
    """One unfinished change of the server. `seq` orders them; `ino`: the File that it is for, 0 if it is for an item.

    `generation`, `size` and `sha256` ("" if not known yet) are of the bytes that a `put` sends; `source` is where a `move`'s item
    was. `direct`: it goes straight to its target: a file that may have been created there (R9), or a directory that is renamed.
    `planned_at` in seconds since the epoch.
    """

    seq: int
    verb: Verb
    target: str
    stage: Stage = Stage.STAGING
    ino: int = 0
    generation: int = 0
    size: int = 0
    sha256: str = ""
    source: str = ""
    tid: str = ""
    staged_id: str = ""
    direct: bool = False
    base: Base = Base()
    asides: list[Aside] = field(default_factory=list)
    planned_at: float = 0.0

    recorded: bool = field(default=False, metadata=_MEMORY, repr=False)
    file: File | None = field(default=None, metadata=_MEMORY, repr=False)
    #: The item staged, or moved; later the item as it was placed.
    item: Item | None = field(default=None, metadata=_MEMORY, repr=False)
    #: What its names show meanwhile instead of the server's word: an item, or None for nothing.
    shows: dict[str, Item | None] = field(default_factory=dict, metadata=_MEMORY, repr=False)
    #: True once a request of it may have been sent.
    started: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: After a recovery or a lost answer: a request may have been carried out unseen. The server is looked at before the next
    #: step, and the answer to a later move proves nothing (R2).
    outcome_unknown: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: The items that were set aside, as they were shown at the target.
    displaced: tuple[Item, ...] = field(default=(), metadata=_MEMORY, repr=False)
    #: The deadline of the run that is under way, None if it rests; calls that wait for the run give it their place.
    deadline: Deadline | None = field(default=None, metadata=_MEMORY, repr=False)
    attempts: int = field(default=0, metadata=_MEMORY, repr=False)
    #: Up to which close of its File (`File.close_count`) it sends the bytes; -1 if that is not known.
    sent_close_count: int = field(default=-1, metadata=_MEMORY, repr=False)
    #: How many of its bytes are on their way, or there.
    sent: int = field(default=0, metadata=_MEMORY, repr=False)
    #: When it is to run, in monotonic seconds.
    due: float = field(default=0.0, metadata=_MEMORY, repr=False)
    error: JobfsError | None = field(default=None, metadata=_MEMORY, repr=False)
    #: Since when nothing but cleanup is left, in monotonic seconds.
    finished_at: float = field(default=0.0, metadata=_MEMORY, repr=False)

    @property
    def is_settled(self) -> bool:
        """True if the server has the outcome: only what was set aside may be left."""
        return self.stage in (Stage.PLACED, Stage.DONE)

    @property
    def is_running(self) -> bool:
        """True while somebody carries it out."""
        return self.deadline is not None

    @property
    def needs_undo(self) -> bool:
        """True if it was cancelled and may still be on the server, staged or under the target's name."""
        return self.stage is Stage.CANCELLED and bool(self.tid or self.staged_id or self.direct)

    @property
    def restores_asides(self) -> bool:
        """True if its asides go back to their name: it has failed, or a cancelled save had no base."""
        return self.stage is Stage.CANCELLED and (self.verb is not Verb.PUT or not self.base.id)

    @property
    def is_finished(self) -> bool:
        """True if nothing more is to be placed: only cleanup is left, or nothing."""
        return self.is_settled or self.stage is Stage.CANCELLED

    @property
    def is_in_flight(self) -> bool:
        """True while something of it may be on its way to the target."""
        return self.started and not self.is_finished

    @property
    def holds_names(self) -> bool:
        """True if its names are not at rest: it was begun, or is to remove something; or it is still being taken back."""
        if self.is_finished:
            return self.needs_undo or (self.is_running and not self.is_settled)
        return self.started or self.verb is Verb.REMOVE

    @property
    def touched_paths(self) -> set[str]:
        """The names whose items it changes: its target, and the source of a file that moves."""
        return {self.target, self.source} if self.source and not self.direct else {self.target}

    def hidden_path(self, mount: str) -> str:
        """The hidden path at which it stages its item."""
        return names.hidden_path(self.target, mount, self.tid, names.Role.STAGED)

    def is_staged_item(self, item: Item) -> bool:
        """True if the item still has the hidden name under which this change created it (R6); of a move: its old name.

        The caller compares the whole path: a move's target may have the same last component.
        """
        if self.verb is Verb.MOVE:
            return names.basename(item.path) == names.basename(self.source)
        parts = names.parse_hidden_name(names.basename(item.path))
        return parts is not None and parts.transaction == self.tid

    def first_moved_aside(self) -> Aside | None:
        """The aside whose lifecycle and permission the new item takes over: the first that has moved; None if there is none."""
        return next((aside for aside in self.asides if aside.moved), None)

    def files_moved_over(self) -> list[File]:
        """The File of unsent bytes that its item has replaced, if the journal has it and it was not written since."""
        file = self.file
        if file is None or not file.recorded or self.verb is Verb.MKDIR:
            return []
        newer = file.generation != self.generation or file.has_unclosed_bytes
        return [] if self.generation and newer else [file]


Record = File | Change


#: The fields that the journal holds, each with its default; the other fields are of this process alone.
COLUMNS: dict[type[Any], dict[str, Any]] = {
    kind: {part.name: part.default for part in fields(kind) if "memory" not in part.metadata}
    for kind in (File, Change)
}


def encode_record(record: Record, changed: Mapping[str, Any]) -> str:
    """A record with some fields changed, as the journal holds it: fields that have their default are left out."""
    columns = COLUMNS[type(record)]
    values = {name: changed.get(name, getattr(record, name)) for name in columns}
    return json.dumps({n: value for n, value in values.items() if value != columns[n]}, default=asdict)


def decode_record(kind: type[Any], text: str) -> Any:
    """The record that was encoded. Raises ValueError, TypeError, AttributeError for a text that no jobfs wrote."""
    record = _from_json(kind, json.loads(text))
    record.recorded = True
    return record


def _from_json(kind: type[Any], values: dict[str, Any]) -> Any:
    read = {name: _READ[name](value) for name, value in values.items() if name in _READ}
    return kind(**{**values, **read})


_READ: dict[str, Callable[[Any], Any]] = {
    "kind": Kind,
    "lifecycle": Lifecycle,
    "permission": Permission,
    "pending_permission": lambda value: None if value is None else Permission(value),
    "verb": Verb,
    "stage": Stage,
    "base": lambda values: Base(**values),
    "asides": lambda found: [_from_json(Aside, values) for values in found],
}

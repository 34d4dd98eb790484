"""The records of the journal: File and Change, each a dataclass for both the object in memory and the row on disk (design.md).

`Handle`, one open of a File, is here too. tables.py draws the life cycles of a File and a Change.
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

#: The flags of `open` that allow the file to be changed.
CHANGES = os.O_ACCMODE | os.O_TRUNC
#: The value of an attribute that is not remembered. As a time, it is one nanosecond before the epoch, which nobody sets.
UNSET = -1


class Stage(StrEnum):
    """How far a Change has come."""

    STAGING = "staging"
    STAGED = "staged"
    PLACED = "placed"
    CANCELLED = "cancelled"
    DONE = "done"


#: The transitions that are allowed; `State.write` and `State.apply_in_memory` refuse all others.
TRANSITIONS: dict[Stage, frozenset[Stage]] = {
    Stage.STAGING: frozenset({Stage.STAGED, Stage.CANCELLED, Stage.DONE}),
    Stage.STAGED: frozenset({Stage.STAGING, Stage.PLACED, Stage.CANCELLED, Stage.DONE}),
    Stage.PLACED: frozenset({Stage.DONE}),
    Stage.CANCELLED: frozenset({Stage.PLACED, Stage.DONE}),
    Stage.DONE: frozenset(),
}


class Verb(StrEnum):
    """What a Change does to its target.

    PUT uploads the local bytes of a generation. MKDIR makes a directory, and never replaces anything. MOVE moves the item at
    `source` over whatever is at the target. REMOVE removes the item at the target.
    """

    PUT = "put"
    MKDIR = "mkdir"
    MOVE = "move"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Base:
    """The version that a save replaces (save/protocol.md, Vocabulary); an empty id means none.

    `racy`: equal timestamps do not prove equal bytes (R1, R2). The version was less than 2 s old when it was opened, has an
    `updatedAt` of whole seconds, was placed by this mount, or is an earlier one that its program has read. `size` in bytes,
    None if not known.
    """

    id: str = ""
    updated_at: str = ""
    size: int | None = None
    sha256: str = ""
    racy: bool = False

    @classmethod
    def from_item(cls, item: Item, *, sha256: str = "", racy: bool = False) -> Base:
        """Return the base for a save that replaces the version of `item`."""
        return cls(item.id, item.updated_at, item.size, sha256, racy)

    def has_other_size(self, current: Item | Aside) -> bool:
        """Return whether an item's size differs from that of this version; False if either is not known."""
        return None not in (self.size, current.size) and current.size != self.size

    def matches_version(self, current: Item | Aside) -> bool:
        """Return whether an item has the id, `updatedAt` and size of this version; a size that is not known matches any."""
        same = (current.id, current.updated_at) == (self.id, self.updated_at) and self.updated_at != ""
        return same and not self.has_other_size(current)

    def proves_unchanged(self, current: Item | Aside) -> bool:
        """Return whether the timestamp proves that an item still is this version (R1)."""
        return self.matches_version(current) and not self.racy


@dataclass(slots=True)
class Aside:
    """An item that a Change moves to a hidden name; cleanup then deletes, restores or keeps it (save/cleanup.py).

    `path`: its hidden name. `moved`: the server has shown the item there. `unsure_until`: until then, in monotonic seconds, a
    request on the item that got no answer may still be carried out (R7); a restart counts again from the beginning. `size` (in
    bytes) and `updated_at` are those that the server showed last.
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
        """Return whether an item has this hidden name, in whatever directory: one above it may have been renamed."""
        return names.basename(item.path) == names.basename(self.path)

    def mark_moved(self, item: Item) -> None:
        """Note that the server has shown the aside at its hidden name, as `item`."""
        self.moved = True
        self.size, self.updated_at = item.size, item.updated_at


class Readable(Protocol):
    """Bytes that can be read at any offset: a cached version, or a generation of local bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at `offset`, at most `size`; fewer only at the end. Raises ApiError."""

    def close(self) -> None:
        """End the use of the bytes."""


class Handle:
    """One open of a File: the part that saves need. `OpenFile` in vfs/handles.py adds what its program sees.

    `item`: the version that was opened, or the newer one that the handle follows; None for a local only file. `content`: the
    bytes of `item`. `base_item`: the version that the program was shown, which is the base of its saves. `racy`: that version was
    racy then (R1). `relies_on_other_size`: the program may know the size of another version than the file here began with, so its
    writes in place fail until it has emptied the file (vfs/semantics.md 3.17).
    """

    def __init__(self, file: File, item: Item | None, flags: int) -> None:
        self.file = file
        self.item = self.base_item = item
        self.readable = flags & os.O_ACCMODE != os.O_WRONLY
        self.writable = flags & CHANGES != 0
        self.append = flags & os.O_APPEND != 0
        self.racy = self.relies_on_other_size = False
        self.content: Readable | None = None
        #: The process that opened the file, None if not known.
        self.process: Process | None = None

    def drop_content(self) -> None:
        """Close `content`, if any."""
        content, self.content = self.content, None
        if content is not None:
            content.close()

    def continue_with(self, item: Item, content: Readable) -> None:
        """Continue on `item`, the version that the written bytes have become. The caller holds the File's lock."""
        self.drop_content()
        self.content = content
        self.item = self.base_item = item
        self.racy = True

    def follow_rename(self, item: Item) -> None:
        """Follow a rename of the item by this mount.

        `base_item` stays: the reply may show the `updatedAt` of bytes that the job has just written, which the program was not
        shown. Only a comparison of bytes can show that (R1).
        """
        if self.item is not None and self.item.id == item.id:
            self.item = item


#: The metadata of a field that the journal does not hold.
_MEMORY = {"memory": True}


@dataclass(slots=True, eq=False)
class File:
    """What this machine knows of a file, directory or symbolic link beyond the server.

    `path`: its path, None once it is unlinked and only open. `item_id`: the id of its item, "" if it has none.
    `generation`: that of the local bytes that were closed and not sent yet, 0 if there are none. `size`: the number of those
    bytes; unclosed ones may follow them. `open_generation`: a generation that was begun and not closed yet, 0 if there is none.
    `never_sent`: the File is local only. `pending_permission`: the permission that its next save sets. `boot`: the boot id under
    which the bytes were closed, "" once they are synced: after another boot, unsynced bytes are not trusted. `sha256`: the hash
    of the bytes that were last placed. `version`: the `updatedAt` to which `sha256` and the times belong. `refused`: why the
    server or the disk has refused its bytes, "" if neither has. Times in nanoseconds since the epoch.
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

    #: True while the journal has a row for it.
    recorded: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: How often its bytes were closed. The numbers of closed generations would not do instead: they do not always grow.
    close_count: int = field(default=0, metadata=_MEMORY, repr=False)
    #: Its item as the server showed it last; None if there is none, or if it was not looked up since the mount began.
    item: Item | None = field(default=None, metadata=_MEMORY, repr=False)
    #: The local bytes that programs read and write: those of `generation`, or of a newer one that is not closed yet.
    local: LocalGeneration | None = field(default=None, metadata=_MEMORY, repr=False)
    #: Its unfinished Change, if any.
    change: Change | None = field(default=None, metadata=_MEMORY, repr=False)
    #: One handle for each open.
    handles: list[Handle] = field(default_factory=list, metadata=_MEMORY, repr=False)
    #: Guards the bytes and handles. To change the generation, take the state's lock after this one and hold both.
    lock: RLock = field(default_factory=RLock, metadata=_MEMORY, repr=False)
    #: The path at which `FileIndex` shows it, None if nowhere.
    shown_at: str | None = field(default=None, metadata=_MEMORY, repr=False)

    @property
    def needs_upload(self) -> bool:
        """True if it has closed bytes that no Change has placed, and is not local only."""
        return self.generation > 0 and self.is_visible_to_job

    @property
    def has_unclosed_bytes(self) -> bool:
        """True if bytes were written since the last close: in a newer generation, or behind the closed ones."""
        local = self.local
        return local is not None and (
            local.generation != self.generation or (not self.never_sent and local.size > local.closed_size)
        )

    @property
    def needs_create(self) -> bool:
        """True for a directory that was acknowledged during an outage, and that the server does not have yet."""
        return self.kind is Kind.DIRECTORY and self.recorded and not self.item_id and not self.never_sent

    @property
    def is_unsent(self) -> bool:
        """True if the server does not have the bytes, or the directory, that this mount has acknowledged."""
        return self.needs_upload or self.needs_create

    @property
    def is_visible_to_job(self) -> bool:
        """True if the job sees it, or will once it is sent: it has a name, and is not local only."""
        return self.path is not None and not self.never_sent

    @property
    def is_open_for_writing(self) -> bool:
        """True while a program has it open for writing."""
        return any(handle.writable for handle in self.handles)

    @property
    def overrides_server(self) -> bool:
        """True if its path shows the File rather than the server's item."""
        alone = self.kind is Kind.DIRECTORY and not self.item_id and self.item is None
        return self.never_sent or self.local is not None or alone

    @property
    def has_only_attributes(self) -> bool:
        """True if it holds nothing but remembered attributes of an item: no handle, no Change, and no bytes, readable or not."""
        bytes_here = self.overrides_server or self.generation or self.open_generation
        return bool(self.item_id) and not (bytes_here or self.handles or self.change)

    def fields_to_reset(self, item: Item) -> dict[str, Any]:
        """Return the fields to reset if `item` is another version: the times, and the hash of the bytes; {} if it is not."""
        if self.overrides_server or self.version == item.updated_at:
            return {}
        unset = dict.fromkeys(("atime_ns", "mtime_ns", "ctime_ns"), UNSET)
        return {"version": item.updated_at, "sha256": "", **unset}


@dataclass(slots=True, eq=False)
class Change:
    """One unfinished change of the server.

    `seq` orders Changes. `ino`: the number of its File, 0 if it changes an item that has none. `generation`, `size` and `sha256`
    ("" if not known yet) are those of the bytes that a `put` sends. `source`: the path from which a `move` takes its item.
    `tid`: the transaction id in its hidden name. `direct`: it uses no hidden name: a file that may have been created straight at
    the target (R9), or a directory that is renamed. `planned_at` in seconds since the epoch.
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
    #: The item that it has staged, or moves; once placed, the item at the target.
    item: Item | None = field(default=None, metadata=_MEMORY, repr=False)
    #: Its overrides by path: the item that the path shows in place of the server's, or None for nothing.
    shows: dict[str, Item | None] = field(default_factory=dict, metadata=_MEMORY, repr=False)
    #: True once one of its requests may have been sent.
    started: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: True after a recovery or a lost answer: the server may have carried out a request. The next step begins with a look at the
    #: server, and the answer to a later move proves nothing (R2).
    outcome_unknown: bool = field(default=False, metadata=_MEMORY, repr=False)
    #: The items that were set aside, as the server showed them at the target.
    displaced: tuple[Item, ...] = field(default=(), metadata=_MEMORY, repr=False)
    #: The deadline of the current run, None if it is not running. Calls that wait for the run attach theirs to it.
    deadline: Deadline | None = field(default=None, metadata=_MEMORY, repr=False)
    #: How many runs have failed since the last that did something and did not fail.
    attempts: int = field(default=0, metadata=_MEMORY, repr=False)
    #: The `File.close_count` when its bytes were chosen: it sends all that was closed until then. -1 if not known.
    sent_close_count: int = field(default=-1, metadata=_MEMORY, repr=False)
    #: How many of its bytes were handed to a connection in this run.
    sent: int = field(default=0, metadata=_MEMORY, repr=False)
    #: When it should run, in monotonic seconds.
    due: float = field(default=0.0, metadata=_MEMORY, repr=False)
    #: Why the last of these runs failed, None if it did not.
    error: JobfsError | None = field(default=None, metadata=_MEMORY, repr=False)
    #: Since when at most cleanup is left, in monotonic seconds.
    finished_at: float = field(default=0.0, metadata=_MEMORY, repr=False)

    @property
    def is_settled(self) -> bool:
        """True if the server has the outcome: at most asides are left to clean up."""
        return self.stage in (Stage.PLACED, Stage.DONE)

    @property
    def is_running(self) -> bool:
        """True while a thread runs it."""
        return self.deadline is not None

    @property
    def needs_undo(self) -> bool:
        """True if it was cancelled, and its staged item may still be on the server, hidden or at the target."""
        return self.stage is Stage.CANCELLED and bool(self.tid or self.staged_id or self.direct)

    @property
    def restores_asides(self) -> bool:
        """True if it was cancelled and its asides go back to the target: they do, except for a save that has a base."""
        return self.stage is Stage.CANCELLED and (self.verb is not Verb.PUT or not self.base.id)

    @property
    def places_nothing_more(self) -> bool:
        """True once it is placed, done or cancelled: at most cleanup, or the undo, is left."""
        return self.is_settled or self.stage is Stage.CANCELLED

    @property
    def cleanup_failed(self) -> bool:
        """True if at most cleanup, or the undo, is left, and the last attempt has failed."""
        return self.places_nothing_more and self.error is not None

    @property
    def is_in_flight(self) -> bool:
        """True while one of its requests may still change the target."""
        return self.started and not self.places_nothing_more

    @property
    def holds_names(self) -> bool:
        """True if its names are not free for another operation: it was started, is a removal, or still needs its undo."""
        if self.places_nothing_more:
            return self.needs_undo or (self.is_running and not self.is_settled)
        return self.started or self.verb is Verb.REMOVE

    @property
    def touched_paths(self) -> set[str]:
        """The paths whose items it changes: the target, and the source of a file that it moves."""
        return {self.target, self.source} if self.source and not self.direct else {self.target}

    @property
    def hidden_ids(self) -> set[str]:
        """The ids by which a hidden item is known to be of this Change: of its items, staged or aside, and its transaction's."""
        return {self.staged_id, self.tid, *(aside.id for aside in self.asides)} - {""}

    def hidden_path(self, mount: str) -> str:
        """Return the hidden path at which it stages its item, for the mount id `mount`."""
        return names.hidden_path(self.target, mount, self.tid, names.Role.STAGED)

    def is_staged_item(self, item: Item) -> bool:
        """Return whether an item still has the hidden name of this Change, or of a move, the name of its source (R6).

        Only the last component counts. The target of a move may have the same one, so the caller compares the whole path.
        """
        if self.verb is Verb.MOVE:
            return names.basename(item.path) == names.basename(self.source)
        parts = names.parse_hidden_name(names.basename(item.path))
        return parts is not None and parts.transaction == self.tid

    def first_moved_aside(self) -> Aside | None:
        """Return the first aside that has moved, whose lifecycle and permission the new item inherits; None if none has."""
        return next((aside for aside in self.asides if aside.moved), None)

    def files_moved_over(self) -> list[File]:
        """Return the recorded File whose name it has taken, in a list; [] if there is none, or it was written to since then."""
        file = self.file
        if file is None or not file.recorded or self.verb is Verb.MKDIR:
            return []
        newer = file.generation != self.generation or file.has_unclosed_bytes
        return [] if self.generation and newer else [file]


Record = File | Change


#: By record type: the fields that the journal holds, each with its default. The others exist in memory only.
COLUMNS: dict[type[Any], dict[str, Any]] = {
    kind: {part.name: part.default for part in fields(kind) if "memory" not in part.metadata}
    for kind in (File, Change)
}


def encode_record(record: Record, changed: Mapping[str, Any]) -> str:
    """Return a record, with the fields in `changed` replaced, as the journal's JSON; fields at their default are left out."""
    columns = COLUMNS[type(record)]
    values = {name: changed.get(name, getattr(record, name)) for name in columns}
    return json.dumps({n: value for n, value in values.items() if value != columns[n]}, default=asdict)


def decode_record(kind: type[Any], text: str) -> Any:
    """Return the record that `encode_record` encoded. Raises ValueError, TypeError or AttributeError for any other text."""
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

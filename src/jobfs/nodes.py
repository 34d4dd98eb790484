"""The types that all layers share: items of the server, versions of their content, and attributes of files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

#: How many inode numbers are cached.
_NUMBERS = 16_384
#: The latest time that 64 bits hold, in nanoseconds since the epoch: in 2262. Its negative is the earliest: in 1677.
_LAST_NS = 2**63 - 1


class Kind(StrEnum):
    """The kind of an item; the API has two spellings for each (api/wire.md)."""

    FILE = "file"
    DIRECTORY = "directory"


class Lifecycle(StrEnum):
    """Whether an item belongs to the workspace's defaults or to the job."""

    APPLICATION = "application"
    EXPERT_JOB = "expertJob"


class Permission(StrEnum):
    """Whether an item may be changed."""

    READ_ONLY = "readOnly"
    READ_WRITE = "readWrite"


class SendProgress(NamedTuple):
    """The progress of sending: the files and bytes that the server has, and how many there are in all."""

    files: int
    all_files: int
    bytes: int = 0
    all_bytes: int = 0


class Version(NamedTuple):
    """An item's id, `updatedAt` and size: they name bytes that do not change, unless the version is racy (vfs/semantics.md 3)."""

    item_id: str
    updated_at: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the workspace as the server showed it.

    `path` has no leading or trailing slash. `updated_at` and `created_at` are the server's own strings, and compared as such.
    `updated_ns` is `updated_at` in nanoseconds since the epoch. `size` is in bytes, None if the server did not give it. An empty
    `id` means an implicit directory: there are items below its path, but none at it.
    """

    id: str
    kind: Kind
    path: str
    lifecycle: Lifecycle = Lifecycle.EXPERT_JOB
    permission: Permission = Permission.READ_WRITE
    owner: str = ""
    created_at: str = ""
    updated_at: str = ""
    updated_ns: int = 0
    size: int | None = None
    mime_type: str = ""
    key: str = ""

    @property
    def is_dir(self) -> bool:
        """True for a directory, implicit or not."""
        return self.kind is Kind.DIRECTORY

    @property
    def is_implicit(self) -> bool:
        """True for a directory without an item of its own (vfs/semantics.md 1)."""
        return not self.id

    @property
    def version(self) -> Version:
        """The version of the content."""
        return Version(self.id, self.updated_at, self.size)

    @property
    def is_read_only(self) -> bool:
        """True if the server reports the permission `readOnly`."""
        return self.permission is Permission.READ_ONLY


def implicit_directory(path: str) -> Item:
    """Return the item that stands for an implicit directory: one that exists only because there are items below it."""
    return Item(id="", kind=Kind.DIRECTORY, path=path)


def clamp_ns(time_ns: int) -> int:
    """Limit a time, in nanoseconds since the epoch, to what 64 bits hold, so that disks and the journal can store it."""
    return max(min(time_ns, _LAST_NS), -_LAST_NS)


class Attr(NamedTuple):
    """The attributes that `stat` shows; times in nanoseconds since the epoch, size in bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


def has_subsecond(updated_ns: int) -> bool:
    """Return whether an `updatedAt`, in nanoseconds, has a fraction of a second; then no two contents share it."""
    return updated_ns % 1_000_000_000 != 0


@lru_cache(_NUMBERS)
def inode_number(item_id: str, other: int = 0) -> int:
    """Return an inode number derived from an item's id, so that it survives a rename and a remount (vfs/semantics.md 1.22).

    `other`: 0 for the item's first number, 1 for the next, and so on: for an item whose first number another File has.
    """
    digest = hashlib.blake2b(item_id.encode() + b"/" * other, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 | 2

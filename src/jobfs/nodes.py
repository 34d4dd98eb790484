"""The vocabulary: what a server item, a version of its content and a file's attributes are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

#: So many inode numbers are kept, and not computed anew.
_NUMBERS = 16_384
#: The last and, negated, the first time that a file system shows, in nanoseconds since the epoch: 2262 and 1677.
_LAST_NS = 2**63 - 1


class Kind(StrEnum):
    """What an item is; the wire has two spellings for each (api/wire.md)."""

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
    """How far sending is: files and bytes that the server has, and how many there are in all."""

    files: int
    all_files: int
    bytes: int = 0
    all_bytes: int = 0


class Version(NamedTuple):
    """Identifies bytes: content is immutable per version (vfs/semantics.md 3)."""

    item_id: str
    updated_at: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Item:
    """A workspace item as the server showed it.

    `path` has no leading slash and no trailing slash. `updated_at` and `created_at` are the server's own
    strings, so that two are equal only if the server said the same. `size` is in bytes; None when the server
    did not say. An item with an empty id is an implicit directory: paths lie under it, no item stands for it.
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
        """True for a directory that no item stands for (vfs/semantics.md 1)."""
        return not self.id

    @property
    def version(self) -> Version:
        """The version of the content that this item shows."""
        return Version(self.id, self.updated_at, self.size)

    @property
    def is_read_only(self) -> bool:
        """True if the API says readOnly."""
        return self.permission is Permission.READ_ONLY


def implicit_directory(path: str) -> Item:
    """The item shown for a directory that exists only because paths lie under it."""
    return Item(id="", kind=Kind.DIRECTORY, path=path)


def clamp_ns(time_ns: int) -> int:
    """A time in nanoseconds since the epoch, or the nearest that 64 bits hold: what disks and the journal can keep."""
    return max(min(time_ns, _LAST_NS), -_LAST_NS)


class Attr(NamedTuple):
    """What `stat` shows; times in nanoseconds since the epoch, size in bytes."""

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
    """True if an `updatedAt`, in nanoseconds, is finer than a second: no two contents share it."""
    return updated_ns % 1_000_000_000 != 0


@lru_cache(_NUMBERS)
def inode_number(item_id: str, other: int = 0) -> int:
    """A stable inode number, derived from an item id so that it survives rename and remount (section 1).

    `other`: 1 for the item's second number, which it has once its first belongs to a later version of its file; and so on.
    """
    digest = hashlib.blake2b(item_id.encode() + b"/" * other, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1 | 2

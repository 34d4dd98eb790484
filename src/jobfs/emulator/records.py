"""The vocabulary of the store: stored items, a job's state, ids, path rules, refusals."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Literal

FILE: Literal["file"] = "file"
DIRECTORY: Literal["directory"] = "directory"
LIFECYCLES = ("application", "expertJob")
PERMISSIONS = ("readOnly", "readWrite")

#: The maximum length of a path, counted as `utf16_length` does (api/wire.md).
PATH_MAX = 1024

_ID = re.compile(r"[a-z0-9]{24}")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Refused(Exception):  # noqa: N818 - named after what the server does
    """400 with this reason."""


class BadPath(Refused):
    """400 "Invalid path", or 422, as the switch `bad_path_status` says."""

    def __init__(self) -> None:
        super().__init__("Invalid path")


class Missing(Exception):  # noqa: N818
    """404 with this reason."""


class Invalid(Exception):  # noqa: N818
    """422: `where` names the parameter or field, the message says what is wrong with it."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item as stored; times in microseconds since the epoch, `size` in bytes (0 for a directory).

    `path` is relative, without a leading slash. `blob` names the content file; "" for a directory.
    """

    id: str
    kind: Literal["file", "directory"]
    path: str
    owner: str
    lifecycle: str
    permission: str
    created_us: int
    updated_us: int
    size: int = 0
    blob: str = ""

    @property
    def is_dir(self) -> bool:
        """Return whether the item is a directory."""
        return self.kind == DIRECTORY


@dataclass(frozen=True, slots=True)
class Job:
    """What the instance shows of the expert job; times in microseconds since the epoch."""

    id: str
    instance_id: str
    application_id: str
    organization_id: str
    created_us: int
    updated_us: int
    status: str = "processing"
    current_step: int = 1
    max_steps: int = 100
    query: str = "Sample job of the local server"


def new_id() -> str:
    """Return a new id of 24 lower-case letters and digits."""
    number = secrets.randbits(124)
    letters = []
    for _ in range(24):
        number, digit = divmod(number, 36)
        letters.append(_DIGITS[digit])
    return "".join(letters)


def is_valid_id(text: str) -> bool:
    """Return whether `text` matches the reference's pattern for ids."""
    return _ID.fullmatch(text) is not None


def parent(path: str) -> str:
    """Return the directory of `path`; "" is the root."""
    return path.rpartition("/")[0]


def ancestors(path: str) -> list[str]:
    """Return all directories above `path` except the root, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def utf16_length(text: str) -> int:
    """Return the length of `text` as JavaScript counts it: in UTF-16 units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def checked_path(path: str) -> str:
    """Return `path` without one leading slash. Raises BadPath if no client may use it."""
    relative = path.removeprefix("/")
    parts = relative.split("/")
    if utf16_length(path) > PATH_MAX or "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise BadPath
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise BadPath from None
    return relative

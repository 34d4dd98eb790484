"""Extended attributes `user.jobfs.*`: what the API knows of an item, two of them to be changed (semantics.md section 2)."""

from __future__ import annotations

import errno
from typing import Any

from jobfs.errors import FsError
from jobfs.nodes import Lifecycle, Permission
from jobfs.vfs.attributes import Attributes
from jobfs.vfs.report import Report

_PREFIX = "user.jobfs."
#: Attributes that are shown, where they have a value.
SHOWN = (
    "id", "owner", "lifecycle", "permission", "mime_type", "key", "created_at", "updated_at", "state", "error",
)  # fmt: skip


class Xattrs:
    """Reads and changes them by path."""

    def __init__(self, report: Report, attributes: Attributes) -> None:
        self._report = report
        self._attributes = attributes

    def names(self, path: str) -> list[str]:
        """Every attribute that has a value. Raises FsError(ENOENT), ApiError."""
        facts = self._report.info(path)
        return [_PREFIX + name for name in SHOWN if facts.get(name)]

    def get(self, path: str, name: str) -> bytes:
        """The value of one. Raises FsError(ENODATA) if there is none of this name, ApiError."""
        plain = name.removeprefix(_PREFIX)
        if plain == name or plain not in SHOWN:
            # Before anything is looked up: the kernel asks for security.* all the time.
            raise FsError(errno.ENODATA)
        value = self._report.info(path).get(plain)
        if not value:
            raise FsError(errno.ENODATA)
        return str(value).encode()

    def set(self, path: str, name: str, value: bytes) -> None:
        """Change permission or lifecycle on the server. Raises FsError(EPERM) for the others, FsError(EINVAL), ApiError."""
        plain = name.removeprefix(_PREFIX)
        if plain == name or plain not in SHOWN:
            raise FsError(errno.EOPNOTSUPP)
        self.assign(path, {plain: value.decode("utf-8", "replace")})

    def assign(self, path: str, values: dict[str, Any]) -> None:
        """Change permission and lifecycle, by their names. Raises as `set`."""
        wanted = {name: value for name, value in values.items() if value is not None}
        if not set(wanted) <= {"permission", "lifecycle"}:
            raise FsError(errno.EPERM)
        try:
            permission = Permission(wanted["permission"]) if "permission" in wanted else None
            lifecycle = Lifecycle(wanted["lifecycle"]) if "lifecycle" in wanted else None
        except ValueError:
            raise FsError(
                errno.EINVAL, "permission is readOnly or readWrite, lifecycle expertJob or application"
            ) from None
        self._attributes.assign(path, permission, lifecycle)

"""The directory `.jobfs/`: read-only files in which the mount says how it is (vfs/semantics.md 6)."""

from __future__ import annotations

import errno
import os
import stat
import time

from jobfs.errors import FsError
from jobfs.nodes import Attr
from jobfs.vfs.report import Report

#: Inode numbers: small, so that no item has them.
_DIRECTORY = 2


class ControlDirectory:
    """Never listed in its parent, and never a request; for the user that mounted, whoever else is let in.

    A file in it is opened as it is now, and stays so for who has it open.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._started_ns = time.time_ns()

    def attr(self, name: str, size: int | None = None) -> Attr:
        """Attributes of the directory (""), or of a file in it, with this size if it is open. Raises FsError(ENOENT)."""
        if not name:
            times = (self._started_ns,) * 3
            return Attr(_DIRECTORY, stat.S_IFDIR | 0o500, 2, self._uid, self._gid, 0, *times)
        number, now = _DIRECTORY + 1 + sum(name.encode()), time.time_ns()
        size = len(self._report.content(name)) if size is None else size
        return Attr(number, stat.S_IFREG | 0o400, 1, self._uid, self._gid, size, now, now, now)

    def entries(self, name: str) -> list[tuple[str, Attr]]:
        """What lies in the directory. Raises FsError(ENOTDIR) for a file."""
        if name:
            raise FsError(errno.ENOTDIR)
        return [(file, self.attr(file)) for file in self._report.files]

    def content(self, name: str, flags: int) -> bytes:
        """What a file that is opened holds. Raises FsError(EACCES, ENOENT)."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FsError(errno.EACCES)
        return self._report.content(name)

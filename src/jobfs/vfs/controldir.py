"""The directory `.jobfs/`: read-only files in which the mount says how it is (semantics.md section 6)."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time

from jobfs import names
from jobfs.errors import FsError
from jobfs.nodes import Attr
from jobfs.vfs.calls import OpenResult
from jobfs.vfs.report import Report

#: Handles of these files are numbered from here.
_HANDLES = 1 << 48
#: Inode numbers: small, so that no item has them.
_DIRECTORY = 2


class ControlDirectory:
    """Never listed in its parent, and never a request; for the user that mounted, whoever else is let in."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._numbers = itertools.count(_HANDLES)
        self._open: dict[int, bytes] = {}
        self._started_ns = time.time_ns()

    @staticmethod
    def name(path: str) -> str | None:
        """The name below `.jobfs/`, "" for that directory itself, None for every other path."""
        if path == names.CONTROL_DIR:
            return ""
        return path.removeprefix(names.CONTROL_DIR + "/") if names.under(path, names.CONTROL_DIR) else None

    @staticmethod
    def opened(fh: int) -> bool:
        """True if this handle is on one of these files."""
        return fh >= _HANDLES

    def attr(self, name: str) -> Attr:
        """Attributes of the directory (""), or of a file in it. Raises FsError(ENOENT)."""
        if not name:
            times = (self._started_ns,) * 3
            return Attr(_DIRECTORY, stat.S_IFDIR | 0o500, 2, self._uid, self._gid, 0, *times)
        return self._attr(name, len(self._report.content(name)))

    def _attr(self, name: str, size: int) -> Attr:
        number, now = _DIRECTORY + 1 + sum(name.encode()), time.time_ns()
        return Attr(number, stat.S_IFREG | 0o400, 1, self._uid, self._gid, size, now, now, now)

    def fattr(self, fh: int) -> Attr:
        """Attributes of an open file: its content stays as it was when it was opened."""
        return self._attr("status.json", len(self._open[fh]))

    def entries(self, name: str) -> list[tuple[str, Attr]]:
        """What lies in the directory. Raises FsError(ENOTDIR) for a file."""
        if name:
            raise FsError(errno.ENOTDIR)
        return [(file, self.attr(file)) for file in self._report.files]

    def open(self, name: str, flags: int) -> OpenResult:
        """Open a file. Raises FsError(EACCES, ENOENT)."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FsError(errno.EACCES)
        fh = next(self._numbers)
        self._open[fh] = self._report.content(name)
        return OpenResult(fh, direct_io=True)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        """Bytes at `offset`."""
        return self._open[fh][offset : offset + size]

    def release(self, fh: int) -> None:
        """The file is closed."""
        self._open.pop(fh, None)

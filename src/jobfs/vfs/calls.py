"""What comes with a call of the kernel, and what it is told beside the answer."""

from __future__ import annotations

from typing import NamedTuple


class OpenResult(NamedTuple):
    """What the kernel is told of an open: the handle's number, and how to cache.

    `size` in bytes is that of a version of the server which is opened; -1 if it is written here, or not known.
    """

    fh: int
    direct_io: bool = False
    keep_cache: bool = False
    size: int = -1


class Caller(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    pid: int

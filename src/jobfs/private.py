"""Directories and files that only this user writes: their contents are believed."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from jobfs.errors import UsageError

_OTHERS_WRITE = 0o022


@contextlib.contextmanager
def open_own_directory(path: Path, what: str, option: str) -> Iterator[int]:
    """A handle on the directory that `path` leads to, which is made with mode 0700 if it is not there.

    Symbolic links in `path` are followed if this user or root made them. Raises UsageError if the directory belongs to another
    user, if others may write in it, or if they could replace it, because a directory above it is theirs. The error names `what`
    it is for and the `option` that moves it. Raises OSError if it can't be made or opened.
    """
    named = f"the {what} directory {path}"
    trusted = {0, os.geteuid(), Path("/").stat().st_uid}

    def check(place: Path, info: os.stat_result, owners: set[int], *, writable: bool) -> None:
        if info.st_uid not in owners:
            whose = user_name(info.st_uid)
            raise UsageError(
                f"{named}: {place} belongs to {whose}: mount as that user, or give another with {option}"
            )
        if writable:
            raise UsageError(
                f"{named}: other users may write in {place}: chmod go-w {shlex.quote(str(place))}, or give another with {option}"
            )

    given = path.absolute()
    for link in (given, *given.parents):
        if os.path.lexists(link) and (link == given or link.is_symlink()):
            check(link, link.lstat(), trusted, writable=False)
    real = Path(os.path.realpath(path))
    for place in (*real.parents[-2::-1], real):
        if not os.path.lexists(place):
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o700)
        above = place.parent.stat()
        renamed = not (above.st_mode & stat.S_ISVTX and place.lstat().st_uid in trusted)
        check(place.parent, above, trusted, writable=renamed and _is_writable_by_others(above))
    handle = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        check(real, info, {os.geteuid()}, writable=bool(info.st_mode & _OTHERS_WRITE))
        yield handle
    finally:
        os.close(handle)


def _is_writable_by_others(info: os.stat_result) -> bool:
    """True if others than its owner may write in a directory; a group of this user alone does not count.

    Many systems give each user a group of his own, and new directories are writable for it.
    """
    if info.st_mode & stat.S_IWOTH:
        return True
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(info.st_gid)
    except KeyError:
        return bool(info.st_mode & stat.S_IWGRP)
    own = user.pw_gid == info.st_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
    return bool(info.st_mode & stat.S_IWGRP) and not own


def is_own_file(info: os.stat_result) -> bool:
    """True for a plain file that this user has made and only this user writes."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_WRITE


def user_name(uid: int) -> str:
    """How a sentence calls a user of this machine."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"

"""Directories and files that only this user can write, so that their contents can be trusted."""

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
def open_own_directory(path: Path, purpose: str, option: str) -> Iterator[int]:
    """Yield the descriptor of the directory at `path`, made with mode 0700 if it does not exist.

    Symbolic links in `path` are followed if this user or root made them. Raises UsageError if the directory belongs to another
    user, or if others can write in it, or replace it because they can write in a directory above it. The message says the
    `purpose` of the directory, and the `option` that moves it. Raises OSError if the directory can't be made or opened.
    """
    named = f"the {purpose} directory {path}"
    trusted = {0, os.geteuid(), Path("/").stat().st_uid}

    def check(place: Path, info: os.stat_result, owners: set[int], *, writable: bool) -> None:
        if info.st_uid not in owners:
            whose = user_name(info.st_uid)
            raise UsageError(
                f"{named}: {place} belongs to {whose}: mount as that user, or give another with {option}"
            )
        if writable:
            raise UsageError(
                f"{named}: other users may write to {place}: run chmod go-w {shlex.quote(str(place))}, "
                f"or give another with {option}"
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
    """Return whether users other than the owner may write in a directory; a group of this user alone does not count.

    Many systems give each user a private group, for which new directories are writable.
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
    """Return whether a file is a regular one that belongs to this user, and that only this user can write."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_WRITE


def user_name(uid: int) -> str:
    """Return the name of a user for a message, `user <uid>` if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"

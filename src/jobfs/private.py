"""Directories and files that only this user writes: what is found in them is believed."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from jobfs.errors import UsageError

_OTHERS_WRITE = 0o022


@contextlib.contextmanager
def own_directory(path: Path, what: str, option: str) -> Iterator[int]:
    """A handle on the directory that `path` leads to, which is made with mode 0700 if it is not there.

    Symbolic links in `path` are followed if this user or root made them. Raises UsageError if the directory belongs to
    another user, others may write in it, or could put another in its place, because one above it is theirs: `what` it is for
    and the `option` that moves it are named. Raises OSError if it can't be made or opened.
    """
    given, named = path.absolute(), f"the {what} directory {path}"

    def foreign(owner: int) -> UsageError:
        return UsageError(
            f"{named} belongs to {user_name(owner)}: mount as that user, or give another with {option}"
        )

    for place in (given, *given.parents):
        if os.path.lexists(place) and (place == given or place.is_symlink()):
            owner = place.lstat().st_uid
            if owner not in _trusted():
                raise foreign(owner)
    path = Path(os.path.realpath(path))
    for place in (*path.parents[-2::-1], path):
        if not os.path.lexists(place):
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o700)
        _check_entry(place, named, option)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        if info.st_uid != os.geteuid():
            raise foreign(info.st_uid)
        if info.st_mode & _OTHERS_WRITE:
            raise UsageError(
                f"other users may write in {named}: remove what is in it and chmod go-w {path}, "
                f"or give another with {option}"
            )
        yield handle
    finally:
        os.close(handle)


def _trusted() -> set[int]:
    return {0, os.geteuid(), Path("/").stat().st_uid}


def _check_entry(place: Path, named: str, option: str) -> None:
    """Raises UsageError if another user could put something else at `place`, at which or below which a directory is."""
    above, info = place.parent, place.parent.stat()
    if info.st_uid not in _trusted():
        raise UsageError(
            f"{named} lies in {above}, which belongs to {user_name(info.st_uid)}: give another with {option}"
        )
    if _others_write(info) and not (info.st_mode & stat.S_ISVTX and place.lstat().st_uid in _trusted()):
        raise UsageError(
            f"{named} lies in {above}, where other users may rename it: chmod go-w {above}, "
            f"or give another with {option}"
        )


def _others_write(info: os.stat_result) -> bool:
    """True if a directory may be written by more than its owner; a group that is this user's alone is no other."""
    if info.st_mode & stat.S_IWOTH:
        return True
    return bool(info.st_mode & stat.S_IWGRP) and not _is_private_group(info.st_gid)


def _is_private_group(gid: int) -> bool:
    """True for the group that many systems give each user for himself, where new directories are writable for it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def is_own_file(info: os.stat_result) -> bool:
    """True for a plain file that this user has made and only this user writes."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_WRITE


def user_name(uid: int) -> str:
    """How a sentence calls a user of this machine."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"

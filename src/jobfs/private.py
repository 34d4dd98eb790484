"""Directories and files that only this user writes: what is found in them is believed."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from jobfs.errors import UsageError

_OTHERS_WRITE = 0o022
#: Symbolic links that one path may lead over, as in the kernel.
_MOST_LINKS = 40


@contextlib.contextmanager
def own_directory(path: Path, what: str, option: str) -> Iterator[int]:
    """A handle on the directory `path`, which is made with mode 0700 if it is not there.

    Symbolic links are followed only if this user or root made them. Raises UsageError if the directory belongs to another
    user, others may write in it, or could put another in its place, because one above it is theirs: `what` it is for and
    the `option` that moves it are named. Raises OSError if it can't be made or opened.
    """
    path = _made(path.absolute(), what, option)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        info = os.fstat(handle)
        if info.st_uid != os.geteuid():
            raise UsageError(_foreign(path, what, option, info.st_uid))
        if info.st_mode & _OTHERS_WRITE:
            raise UsageError(
                f"other users may write in the {what} directory {path}: remove what is in it and chmod go-w {path}, "
                f"or give another with {option}"
            )
        yield handle
    finally:
        os.close(handle)


def _made(path: Path, what: str, option: str) -> Path:
    """`path` without symbolic links, made as far as it was not there; nobody else can change where it leads.

    Raises UsageError, OSError.
    """
    done, coming, links = Path("/"), list(path.parts[:0:-1]), 0
    trusted = {0, os.geteuid(), done.stat().st_uid}
    while coming:
        name = coming.pop()
        if name == "..":
            done = done.parent
            continue
        entry = _entry(done / name)
        is_link = stat.S_ISLNK(entry.st_mode)
        if (is_link or not coming) and entry.st_uid not in trusted:
            raise UsageError(_foreign(path, what, option, entry.st_uid))
        _check_above(done, entry, trusted, f"the {what} directory {path} lies in {done}", option)
        done /= name
        if is_link:
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = done.readlink()
            done = done.parent / target.anchor
            coming += target.relative_to(target.anchor).parts[::-1]
    return done


def _entry(path: Path) -> os.stat_result:
    """What is at `path`: a directory that is made now if nothing is there. Raises OSError."""
    if not os.path.lexists(path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    return path.lstat()


def _check_above(directory: Path, entry: os.stat_result, trusted: set[int], said: str, option: str) -> None:
    """Raises UsageError if another user could put something else in the place of an entry of a directory."""
    info = directory.stat()
    if info.st_uid not in trusted:
        raise UsageError(f"{said}, which belongs to {user_name(info.st_uid)}: give another with {option}")
    if _others_write(info) and not (info.st_mode & stat.S_ISVTX and entry.st_uid in trusted):
        raise UsageError(
            f"{said}, where other users may rename it: chmod go-w {directory}, or give another with {option}"
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


def _foreign(path: Path, what: str, option: str, owner: int) -> str:
    return (
        f"the {what} directory {path} belongs to {user_name(owner)}: mount as that user, or give another "
        f"with {option}"
    )

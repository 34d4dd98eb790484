"""Directories and files that only this user writes: what is found in them is believed."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from jobfs.errors import UsageError

_OTHERS_WRITE = 0o022


@contextlib.contextmanager
def own_directory(path: Path, what: str, option: str) -> Iterator[int]:
    """A handle on the directory `path`, which is made with mode 0700 if it is not there.

    A symbolic link is followed only if this user or root made it. Raises UsageError if the directory belongs to another
    user or others may write in it: `what` it is for and the `option` that moves it are named. Raises OSError if it can't
    be made or opened.
    """
    with contextlib.suppress(FileNotFoundError):
        there = path.lstat()
        if stat.S_ISLNK(there.st_mode):
            if there.st_uid not in (0, os.geteuid()):
                raise UsageError(_foreign(path, what, option, there.st_uid))
            path = path.resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
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

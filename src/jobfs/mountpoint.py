"""Mounts as the kernel has them: where they are, which programs use them, and how to unmount them (vfs/semantics.md 6).

Only `is_dead` and `check_is_empty` call the mounted file system itself, whose process may be this one, or may be gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from jobfs.errors import JobfsError, UsageError

T = TypeVar("T")

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: The mount table, as this process sees it.
_TABLE = Path("/proc/self/mountinfo")
#: How long a mount may take to answer, in seconds; if it takes longer, it counts as alive.
STAT_LIMIT = 2.0

#: How many programs a message names at most.
_MOST_PROGRAMS = 5


class BusyError(JobfsError):
    """A file in the mount is open, or a directory in it is the current directory of a program."""

    errno = errno.EBUSY


class MountInfo(NamedTuple):
    """One line of /proc/self/mountinfo.

    `number`: the mount id. `device`: `major:minor`. `point`: the mount point. `kind`: the type of the file system. `user`: the
    uid of the user that mounted it, for FUSE only.
    """

    number: str
    device: str
    point: str
    kind: str
    user: int | None
    source: str = ""


def list_mounts(table: Path = _TABLE) -> list[MountInfo]:
    """Return all mounts in a mount table, by default those that this process sees, in the order in which they were made.

    Raises OSError.
    """
    found = []
    # As bytes, because text mode would split at characters that the kernel does not escape in names.
    with table.open("rb") as lines:
        for line in lines:
            words = os.fsdecode(line.rstrip(b"\n")).split(" ")
            rest = words.index("-")
            user = re.search(r"\buser_id=(\d+)", words[-1])
            found.append(
                MountInfo(
                    words[0],
                    words[2],
                    _unescape(words[4]),
                    words[rest + 1],
                    int(user[1]) if user else None,
                    _unescape(words[rest + 2]),
                )
            )
    return found


def find_mount_at(point: str, table: Path = _TABLE) -> MountInfo | None:
    """Return the topmost mount at the mount point `point`, None if there is none; `table` as in `list_mounts`."""
    return next((mount for mount in reversed(list_mounts(table)) if mount.point == point), None)


def check_is_empty(directory: str) -> None:
    """Raise UsageError if a directory can't be mounted at, because it has entries or can't be listed."""
    try:
        if os.listdir(directory):
            raise UsageError(f"{directory} is not empty: move away what is in it, or give an empty directory")
    except OSError as error:
        raise UsageError(f"can't mount at {directory}: {error.strerror}: give an empty directory") from None


def unmount(directory: str, *, lazy: bool = False) -> None:
    """Unmount `directory`; if `lazy`, detach it even while it is in use. Does nothing if it is not a mount point.

    Raises BusyError if it is in use, and JobfsError for any other error.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        code = ctypes.get_errno() if libc.umount2(os.fsencode(directory), flags) else 0
        reason = os.strerror(code)
    else:
        code, reason = _unmount_by_helper(directory, lazy=lazy)
    if code == errno.EBUSY and not lazy:
        raise BusyError(f"{directory} is in use")
    if code not in (0, errno.EINVAL):
        raise JobfsError(f"can't unmount {directory}: {reason}")


def _unmount_by_helper(directory: str, *, lazy: bool) -> tuple[int, str]:
    """Unmount with the setuid program fusermount; return an errno or exit status, 0 for success, and its error message."""
    words = ["fusermount", "-u", *(["-z"] if lazy else []), "--", directory]
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        return error.errno or errno.EIO, f"fusermount can't be run: {error.strerror}"
    reason = done.stderr.strip()
    code = errno.EBUSY if "busy" in reason else errno.EINVAL if "not found" in reason else done.returncode
    return code, reason


def is_dead(path: str) -> bool:
    """Return whether the process of the mount at `path` is gone, so that all calls there fail with ENOTCONN."""
    try:
        # Not stat, whose answer the kernel may have cached for a second.
        run_bounded(lambda: os.statvfs(path), STAT_LIMIT)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def run_bounded(
    work: Callable[[], T], seconds: float, concurrently: Callable[[], object] = lambda: None
) -> T:
    """Run `work` in a thread, and `concurrently` in this one; return the result of `work`, or raise its error.

    Raises TimeoutError if `work` takes longer than `seconds`; it is then left running.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    concurrently()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def find_programs_using(mount: MountInfo) -> list[str]:
    """Return the programs that have a file of a mount open, or a current directory in it, as `vim (42: a.txt)`.

    Programs of other users may not be visible. After a lazy unmount, open files are still found. This process is left out.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # The program may have ended, or belong to another user.
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and (use := next(_find_uses(pid, mount), None)) is not None:
                # The kernel cuts names to 15 bytes, perhaps within a character.
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
                found.append(f"{name} ({pid}: {use})")
    return found


def describe_programs(programs: list[str]) -> str:
    """Join programs to one line, at most `_MOST_PROGRAMS` of them; return a phrase if there are none."""
    more = [f"{len(programs) - _MOST_PROGRAMS} more"] if len(programs) > _MOST_PROGRAMS else []
    return ", ".join([*programs[:_MOST_PROGRAMS], *more]) or "a program that can't be seen from here"


def _find_uses(pid: str, mount: MountInfo) -> Iterator[str]:
    """Yield how a program uses a mount: `current directory`, or the path of an open file. Raises OSError."""
    # By mount id, because the directory below the mount point has the same path. O_PATH makes no call to the file system.
    handle = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_CLOEXEC)
    try:
        if _read_mount_number(f"/proc/self/fdinfo/{handle}") == mount.number:
            yield "current directory"
    finally:
        os.close(handle)
    for number in os.listdir(f"/proc/{pid}/fd"):
        # The file may have been closed.
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            # By mount id here, too: after a lazy unmount, paths do not show the mount.
            if path.startswith("/") and _read_mount_number(f"/proc/{pid}/fdinfo/{number}") == mount.number:
                yield path.removesuffix(" (deleted)").removeprefix(mount.point).lstrip("/") or "."


def _read_mount_number(file: str) -> str:
    with open(file) as lines:
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word)

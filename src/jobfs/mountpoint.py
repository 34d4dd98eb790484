"""What the kernel knows of a mount: where it is, which programs use it, how it is taken away (vfs/semantics.md 6).

Only `is_dead` asks the mounted file system itself: its process may be the caller, or be gone.
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

from jobfs.errors import JobfsError

T = TypeVar("T")

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
#: Seconds after which a mount that does not answer is taken for alive.
STAT_LIMIT = 2.0

#: A sentence names at most so many programs.
_MOST_PROGRAMS = 5


class BusyError(JobfsError):
    """Something in the mounted directory is open, or is some program's current directory."""

    errno = errno.EBUSY


class MountInfo(NamedTuple):
    """One mount: the kernel's numbers of it, its mount point, its type, the user that made it (of FUSE only), and its source."""

    number: str
    device: str
    point: str
    kind: str
    user: int | None
    source: str = ""


def list_mounts() -> list[MountInfo]:
    """Every mount that this process sees, in the order in which they were made."""
    found = []
    # As bytes: the kernel escapes a space, a tab and a new line in a name, and nothing else that ends a word or a line.
    with open("/proc/self/mountinfo", "rb") as lines:
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


def mount_at(point: str) -> MountInfo | None:
    """What is mounted at a directory, above everything else there."""
    return next((mount for mount in reversed(list_mounts()) if mount.point == point), None)


def unmount(directory: str, *, lazy: bool = False) -> None:
    """Unmount `directory`, if something is mounted there. Raises BusyError if it is in use and it is not `lazy`, JobfsError."""
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
        raise JobfsError(f"could not unmount {directory}: {reason}")


def _unmount_by_helper(directory: str, *, lazy: bool) -> tuple[int, str]:
    """Unmount by fusermount, which is allowed to. Returns its code, 0 if it was done, and its words."""
    words = ["fusermount", "-u", *(["-z"] if lazy else []), "--", directory]
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        return error.errno or errno.EIO, f"fusermount can't be run: {error.strerror}"
    reason = done.stderr.strip()
    code = errno.EBUSY if "busy" in reason else errno.EINVAL if "not found" in reason else done.returncode
    return code, reason


def is_dead(path: str) -> bool:
    """True if the process that served the mount at `path` is gone: then whatever is asked of it fails with ENOTCONN."""
    try:
        # Not stat: the kernel may know the answer to that for a second longer.
        run_bounded(lambda: os.statvfs(path), STAT_LIMIT)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def run_bounded(
    work: Callable[[], T], seconds: float, concurrently: Callable[[], object] = lambda: None
) -> T:
    """The result of `work`; raises TimeoutError if it takes longer, and leaves it to itself. `concurrently` is done beside it."""
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


def programs_in(mount: MountInfo) -> list[str]:
    """The programs that have something of a mount open, or as their directory, as far as they can be seen: `vim (42: a.txt)`.

    Files that were opened before the mount was detached are found after that too. This process is left out.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # The program may have ended, or belong to somebody whose programs can't be looked into.
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and (use := next(_find_uses(pid, mount), None)) is not None:
                # The name has 15 bytes at most, and may be cut within a character.
                name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
                found.append(f"{name} ({pid}: {use})")
    return found


def describe_programs(programs: list[str]) -> str:
    """Programs and their pids, in one line; a phrase if none is known."""
    more = [f"{len(programs) - _MOST_PROGRAMS} more"] if len(programs) > _MOST_PROGRAMS else []
    return ", ".join([*programs[:_MOST_PROGRAMS], *more]) or "a program that can't be seen from here"


def _find_uses(pid: str, mount: MountInfo) -> Iterator[str]:
    """The uses that a program has of a mount: a path in it, or a phrase. Raises OSError."""
    # Not by its path: the directory that the mount covers has the same path. This asks no file system.
    handle = os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_CLOEXEC)
    try:
        if _read_mount_number(f"/proc/self/fdinfo/{handle}") == mount.number:
            yield "current directory"
    finally:
        os.close(handle)
    for number in os.listdir(f"/proc/{pid}/fd"):
        # It may be closed by now.
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/{pid}/fd/{number}")
            # The kernel says on which mount an open file is: paths say nothing once the mount is detached.
            if path.startswith("/") and _read_mount_number(f"/proc/{pid}/fdinfo/{number}") == mount.number:
                yield path.removesuffix(" (deleted)").removeprefix(mount.point).lstrip("/") or "."


def _read_mount_number(file: str) -> str:
    with open(file) as lines:
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), word)

"""The helper of a mount: a program that makes system calls on the mount so that the kernel sends their events (fuse/events.py).

The helper is a process of its own, without the descriptor of the device: a mount that is killed ends at once, even while a call
of the helper waits. The helper imports nothing of jobfs, to start fast and stay small. It reads one call per line, as JSON, and
answers each with a line that holds the call's errno, 0 for success. It ends at the end of its input.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Callable

_UTIME_OMIT = 0x3FFFFFFE
_PR_SET_PDEATHSIG = 1
_Times = ctypes.c_long * 4
#: Sets only the time of the content: the kernel sends MODIFY, and the caller needs no right to write.
_CONTENT = _Times(0, _UTIME_OMIT, 0, 0)
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


def _create(path: str) -> None:
    os.mknod(path, stat.S_IFREG | 0o644)


def _modify(path: str) -> None:
    if _libc.utimensat(_AT_FDCWD, path.encode(), ctypes.byref(_CONTENT), 0):
        raise OSError(ctypes.get_errno(), path)


def _close(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _attributes(path: str) -> None:
    # With the mode that `stat` shows, the kernel sends ATTRIB and nothing changes.
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))


_CALLS: dict[str, Callable[..., None]] = {
    "create": _create,
    "modify": _modify,
    "close": _close,
    "attributes": _attributes,
    "mkdir": os.mkdir,
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "rename": os.rename,
}
#: Calls that follow a link, and cross into a file system that is mounted at their path.
_FOLLOWING = frozenset({"modify", "close", "attributes"})


def make_call(directory: str, device: int, call: str, *paths: str) -> int:
    """Make a call on the file system with this device number that is mounted at a directory; return its errno.

    Do nothing on any other file system: in the directory underneath after an unmount, in one that is mounted further down, or
    where a link leads. Between calls nothing is held open, so the mount can be unmounted.
    """
    opened: list[int] = []
    try:
        resolved = []
        for path in paths:
            start, name = (path, "") if call in _FOLLOWING else os.path.split(path)
            descriptor = os.open(os.path.join(directory, start), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.append(descriptor)
            if os.fstat(descriptor).st_dev != device:
                return errno.ENOENT
            resolved.append(f"/proc/self/fd/{descriptor}/{name}".rstrip("/"))
        _CALLS[call](*resolved)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return 0


def main(directory: str, device: str) -> None:
    """Make the calls that stdin names, until its end.

    SIGKILL ends this process when the mount's process ends, even if this one is stopped.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for line in sys.stdin:
        sys.stdout.write(f"{make_call(directory, int(device), *json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

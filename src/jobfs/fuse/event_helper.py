"""The helper of a mount: a program that makes calls on the mount, so that the kernel sends the events of them (fuse/events.py).

It has a process of its own, and not the descriptor of the device: a mount that is killed ends at once, whatever this waits for.
It imports nothing of jobfs, to start fast and stay small. It reads one call a line, as JSON, and answers each with a line: the
errno, 0 if it was made. It ends with its input.
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
#: Only the time of the content is set: that is MODIFY, and takes no right to write.
_CONTENT = _Times(0, _UTIME_OMIT, 0, 0)
_HERE = -100
_libc = ctypes.CDLL(None, use_errno=True)


def _create(path: str) -> None:
    os.mknod(path, stat.S_IFREG | 0o644)


def _modify(path: str) -> None:
    if _libc.utimensat(_HERE, path.encode(), ctypes.byref(_CONTENT), 0):
        raise OSError(ctypes.get_errno(), path)


def _close(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _attributes(path: str) -> None:
    # The mode must be the one that is shown.
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
#: Those that follow a link, and go over to what is mounted at their path.
_FOLLOWING = frozenset({"modify", "close", "attributes"})


def make_call(directory: str, device: int, call: str, *paths: str) -> int:
    """Make a call on the file system that is mounted at a directory with this device number; its errno.

    Nothing is done on another file system: not in the directory underneath after an unmount, in what is mounted further down, or
    where a link leads. In between calls nothing keeps the mount from being unmounted.
    """
    opened: list[int] = []
    try:
        there = []
        for path in paths:
            start, name = (path, "") if call in _FOLLOWING else os.path.split(path)
            place = os.open(os.path.join(directory, start), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.append(place)
            if os.fstat(place).st_dev != device:
                return errno.ENOENT
            there.append(f"/proc/self/fd/{place}/{name}".rstrip("/"))
        _CALLS[call](*there)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        for place in opened:
            os.close(place)
    return 0


def main(directory: str, device: str) -> None:
    """Answer calls until there are no more, or the mount is gone: then this ends even if it is stopped."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for line in sys.stdin:
        sys.stdout.write(f"{make_call(directory, int(device), *json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The helper of a mount: a program that makes calls on the mount, so that the kernel sends the events of them (fuse/telling.py).

It has a process of its own, and not the descriptor of the device: a mount that is killed ends at once, whatever this waits for.
It imports nothing of jobfs, to start fast and stay small. It reads one call a line, as JSON, and answers each with a line: the
errno, 0 if it was made. It ends with its input.
"""

from __future__ import annotations

import ctypes
import json
import os
import stat
import sys
from collections.abc import Callable

_UTIME_NOW_OMIT = 0x3FFFFFFE
_Times = ctypes.c_long * 4
#: Only the time of the content is set: that is MODIFY, and takes no right to write.
_CONTENT = _Times(0, _UTIME_NOW_OMIT, 0, 0)
_libc = ctypes.CDLL(None, use_errno=True)


def _create(root: int, path: str) -> None:
    os.mknod(path, stat.S_IFREG | 0o644, dir_fd=root)


def _modify(root: int, path: str) -> None:
    if _libc.utimensat(root, os.fsencode(path), ctypes.byref(_CONTENT), 0):
        raise OSError(ctypes.get_errno(), path)


def _close(root: int, path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=root))


def _attributes(root: int, path: str) -> None:
    # By way of a descriptor: fchmodat follows links as this does, and the mode must be the one that is shown.
    os.chmod(path or ".", stat.S_IMODE(os.stat(path or ".", dir_fd=root).st_mode), dir_fd=root)


_CALLS: dict[str, Callable[..., None]] = {
    "create": _create,
    "modify": _modify,
    "close": _close,
    "attributes": _attributes,
    "mkdir": lambda root, path: os.mkdir(path, dir_fd=root),
    "unlink": lambda root, path: os.unlink(path, dir_fd=root),
    "rmdir": lambda root, path: os.rmdir(path, dir_fd=root),
    "rename": lambda root, path, new: os.rename(path, new, src_dir_fd=root, dst_dir_fd=root),
}


def make(directory: str, device: int, call: str, *paths: str) -> int:
    """Make a call on the file system that is mounted at a directory with this device number; its errno.

    The root is opened for each: in between nothing keeps the mount from being unmounted, and after that nothing is made in the
    directory underneath.
    """
    try:
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.fstat(root).st_dev != device:
                return 2
            _CALLS[call](root, *paths)
        finally:
            os.close(root)
    except OSError as error:
        return error.errno or 5
    return 0


def main(directory: str, device: str) -> None:
    """Answer calls until there are no more."""
    for line in sys.stdin:
        sys.stdout.write(f"{make(directory, int(device), *json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

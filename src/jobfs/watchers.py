"""A look at `/proc` for the programs that watch a mount by inotify, as far as this user may see them (vfs/semantics.md 7)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress


def find_watched_inodes(device: int) -> dict[int, set[int]]:
    """Return the inode numbers that programs watch on a device (`st_dev`), by process; only processes that watch any."""
    # The inode number and device of a watch, in the kernel's hex format. There may be 100,000 watches on other devices.
    watch = re.compile(rb" ino:([0-9a-f]+) sdev:%x " % (os.major(device) << 20 | os.minor(device)))
    found: dict[int, set[int]] = {}
    for process in filter(str.isdigit, os.listdir("/proc")):
        # The program may have ended, or belong to another user.
        with suppress(OSError):
            for number in _inotify_descriptors(process):
                with open(f"/proc/{process}/fdinfo/{number}", "rb") as info:
                    inodes = {int(inode, 16) for inode in watch.findall(info.read())}
                if inodes:
                    found.setdefault(int(process), set()).update(inodes)
    return found


def _inotify_descriptors(process: str) -> Iterator[str]:
    directory = f"/proc/{process}/fd"
    for number in os.listdir(directory):
        with suppress(OSError):  # it may have been closed
            if os.readlink(f"{directory}/{number}") == "anon_inode:inotify":
                yield number

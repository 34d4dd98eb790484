"""The watches of programs, as the kernel reports them."""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path

from jobfs.watchers import find_watched_inodes

_libc = ctypes.CDLL(None, use_errno=True)
_MODIFY = 2


def test_watches_on_a_device_are_found_until_their_descriptor_is_closed() -> None:
    """vfs/semantics.md 7.6. A file system in memory: on others the kernel's device may not be that of `stat`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        places = [Path(name), Path(name, "file")]
        places[1].touch()
        inodes, device, mine = {place.stat().st_ino for place in places}, places[0].stat().st_dev, os.getpid()
        descriptors = [_libc.inotify_init1(os.O_CLOEXEC) for _ in places]
        try:
            assert mine not in find_watched_inodes(device), "it watches nothing"
            for descriptor, place in zip(descriptors, places, strict=True):
                assert _libc.inotify_add_watch(descriptor, os.fsencode(place), _MODIFY) == 1
            assert find_watched_inodes(device)[mine] == inodes
            assert mine not in find_watched_inodes(Path("/proc").stat().st_dev), "another device"
            os.close(descriptors.pop())
            assert find_watched_inodes(device)[mine] == {places[0].stat().st_ino}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        assert mine not in find_watched_inodes(device)

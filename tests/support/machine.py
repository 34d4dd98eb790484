"""What this machine allows the tests to do: to mount, to act as root, to use memory. Nothing else decides that.

With `JOBFS_TEST_NEEDS_FUSE=1` it is an error if no mount is possible; `JOBFS_TEST_FUSE_DEVICE` names another device than
`/dev/fuse`, for tests of the decision itself.
"""

from __future__ import annotations

import os
import resource
import shutil
from functools import cache
from pathlib import Path

import pytest

from .environment import read_test_variable

#: The beginnings of the reasons for which tests are left out, by which the summary counts them.
NO_MOUNT, NEEDS_ROOT = "no mount is possible here", "needs root"
#: The directory whose files are in memory, and the bytes that tests may need there.
MEMORY, ROOM = Path("/dev/shm"), 1 << 30


@cache
def why_no_mount() -> str:
    """Return a sentence that says why no mount is possible here, or "" if one is."""
    device = read_test_variable("FUSE_DEVICE") or "/dev/fuse"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{NO_MOUNT}: {device} can't be opened ({error.strerror})"
    return ""


def must_mount() -> bool:
    """Return whether a run without mounts is a failure."""
    return read_test_variable("NEEDS_FUSE") not in ("", "0")


def require_mount() -> None:
    """Skip the running test if no mount is possible here."""
    if reason := why_no_mount():
        pytest.skip(reason)


def has_room_in_memory() -> bool:
    """Return whether files of tests may be in memory; a container may have little of that."""
    return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM


def require_descriptors(number: int) -> None:
    """Let this process have `number` files open; skip the running test if the machine forbids that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        pytest.skip(f"at most {hard} files may be open here, and this needs {number}")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def why_left_out(item: pytest.Item, *, is_root: bool = os.geteuid() == 0) -> str:
    """Return why a test with the item's markers can't run here, or ""; `is_root`: as root."""
    if not is_root and (mark := item.get_closest_marker("needs_root")):
        return f"{NEEDS_ROOT}: {mark.args[0]}"
    return why_no_mount() if item.get_closest_marker("needs_fuse") else ""

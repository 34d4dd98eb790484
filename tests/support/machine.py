"""What this machine allows the tests to do: to mount, and to act as root. The only place where that is decided.

`JOBFS_TEST_NEEDS_FUSE=1` makes it an error that no mount is possible; `JOBFS_TEST_FUSE_DEVICE` names another device than
`/dev/fuse`, for tests of the decision itself.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

#: How the reasons begin with which tests are left out: the summary counts them by this.
NO_MOUNT, NEEDS_ROOT = "no mount is possible here", "needs root"


@cache
def why_no_mount() -> str:
    """Return in a sentence why no mount is possible here, or "" if one is."""
    device = os.environ.get("JOBFS_TEST_FUSE_DEVICE", "/dev/fuse")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{NO_MOUNT}: {device} can't be opened ({error.strerror})"
    return ""


def must_mount() -> bool:
    """Return True if a run without mounts is a failure."""
    return os.environ.get("JOBFS_TEST_NEEDS_FUSE", "") not in ("", "0")


def require_mount() -> None:
    """Leave the running test out if no mount is possible here."""
    if reason := why_no_mount():
        pytest.skip(reason)


def why_left_out(item: pytest.Item) -> str:
    """Return why a test with the item's markers can't run here, or ""."""
    if os.geteuid() != 0 and (mark := item.get_closest_marker("needs_root")):
        return f"{NEEDS_ROOT}: {mark.args[0]}"
    return why_no_mount() if item.get_closest_marker("needs_fuse") else ""

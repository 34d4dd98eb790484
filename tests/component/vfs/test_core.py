"""The Vfs: the control directory, a read-only mount, flush."""

from __future__ import annotations

import errno
import os

from tests.support.files import errno_from
from tests.support.workspaces import CALLER, Workspace

from jobfs.nodes import Sent


def test_the_control_directory_is_not_changed(work: Workspace) -> None:
    assert errno_from(work.vfs.open, ".jobfs/pending", os.O_RDWR) == errno.EACCES
    assert errno_from(work.vfs.unlink, ".jobfs/pending") == errno.EPERM
    assert errno_from(work.vfs.create, ".jobfs/new", 0o644, 0, CALLER) == errno.EPERM
    assert errno_from(work.vfs.rename, ".jobfs", "other") == errno.EPERM
    assert errno_from(work.vfs.mkdir, ".jobfs", 0o755, CALLER) == errno.EPERM


def test_a_drain_shows_its_progress(work: Workspace) -> None:
    for name in "abc":
        work.write(name, b"x")
    steps: list[Sent] = []
    assert work.vfs.flush_all(None, 20, steps.append) == []
    assert steps[-1] == Sent(3, 3, 3, 3)

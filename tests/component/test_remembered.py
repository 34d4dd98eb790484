"""What this machine remembers of items: modes, owners and times (vfs/semantics.md 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.waiting import eventually
from tests.support.workspaces import Workspace

from jobfs.emulator import Server
from jobfs.namespace import Namespace
from jobfs.save import writeback


def test_what_is_remembered_of_saves_goes_though_nobody_lists(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md, Vocabulary: a transaction id is kept until a listing shows that nothing of it is left."""
    monkeypatch.setattr(writeback, "_LIST_EVERY", 0.1)
    server.store.seed({"file": "content"}, age=60)
    work = start(request_lifetime=0.01)
    assert work.read("file") == b"content"
    work.write("file", b"another", fsync=True)
    eventually(lambda: not work.vfs._write_back.state.journal.has_tombstones)


def test_what_is_remembered_outlives_a_remount_that_nobody_looks_at(
    server: Server, start: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 2: kept per item until the job replaces or deletes it: before a listing nothing is known to be gone."""
    server.store.seed({"file": "content"}, age=60)
    work = start()
    work.vfs.chmod("file", 0o600)
    work.stop()
    looks: list[int] = []

    def counted(namespace: Namespace) -> int:
        looks.append(namespace._known.snapshots)
        return looks[-1]

    monkeypatch.setattr(Namespace, "snapshot_number", property(counted))
    monkeypatch.setattr(writeback, "_TIDY_EVERY", 0.01)
    work.start()
    eventually(lambda: len(looks) > 3, "what a listing has shown is looked for")
    assert looks[-1] == 0
    assert work.vfs.getattr("file").mode & 0o777 == 0o600

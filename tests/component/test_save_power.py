"""The power goes at any instant: what fsync acknowledged is there, what was only closed may come back beside its name."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from tests.support.boundaries import Boundaries
from tests.support.operations import OPERATIONS, Operation, Promise, start_next_mount
from tests.support.powerloss import FATES, SyncedState, reboot

from jobfs.emulator import Server


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_leaves_old_or_new_content_at_any_power_loss(
    server: Server, tmp_path: Path, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vfs/semantics.md 4.4 and save/protocol.md, Vocabulary, (S): only synced state survives, and that is enough."""
    monkeypatch.setattr("jobfs.save.writeback._SYNC_EVERY", 60.0)  # else a file may be back at its old path
    for at in count(1):
        boundaries, promise = Boundaries(at), Promise()
        with operation.started(server, tmp_path / f"{at}", boundaries) as work:
            synced = SyncedState(work)
            work.work(lambda work=work, promise=promise: operation.run(work, promise))  # type: ignore[misc]
        if not boundaries.struck:
            break
        fate = FATES[at % len(FATES)]
        synced.lose_power(fate)
        with monkeypatch.context() as patch:
            reboot(patch, work.home)
            with start_next_mount(work) as again:
                again.settle()
                where = f"power lost at {at}: {boundaries.last} of {boundaries.passed}; unsynced bytes {fate}"
                operation.check(again, promise, where, power_lost=True)
    assert boundaries.surround(operation.sends), boundaries.passed

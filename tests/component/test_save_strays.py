"""Hidden items that no record explains are exposed, never deleted (save/protocol.md R4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.boundaries import Mortal
from tests.support.serverside import hidden
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_transaction_id


@pytest.fixture
def work(mortal: Callable[..., Mortal]) -> Mortal:
    return mortal()


def stray(work: Mortal) -> str:
    path = hidden_path("dir/file.txt", work.mount_id, new_transaction_id(), Role.STAGED)
    work.server.store.seed({path: "stray"})
    return path


@pytest.mark.parametrize("refused", [0, 1])
def test_one_that_the_server_refuses_to_move_keeps_no_other_from_being_shown(
    server: Server, work: Mortal, refused: int
) -> None:
    """save/protocol.md R4: every hidden item of this mount that no record explains is shown."""
    server.set(read_only="enforced")
    stuck = [stray(work) for _ in range(2)][refused]
    server.store.set_permission(stuck, "readOnly")
    eventually(lambda: work.names("dir") and hidden(server) == [stuck])

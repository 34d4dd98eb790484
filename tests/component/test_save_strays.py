"""Hidden items that no record explains are exposed, never deleted (save-protocol R4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.boundaries import At, Mortal
from tests.support.load.figures import rows_in
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server
from jobfs.names import Role, hidden_path, new_mount_id, new_transaction_id


@pytest.fixture
def work(mortal: Callable[..., Mortal]) -> Mortal:
    return mortal()


def stray(work: Mortal, role: Role, mount: str = "") -> str:
    path = hidden_path("dir/file.txt", mount or work.mount_id, new_transaction_id(), role)
    work.server.store.seed({path: "stray"})
    return path


def test_those_of_another_mount_are_left_alone(server: Server, work: Mortal) -> None:
    """semantics 4: hidden items of another mount are left alone, and never shown."""
    path = stray(work, Role.ASIDE, new_mount_id())
    own = stray(work, Role.STAGED)
    eventually(lambda: work.names("dir") and own not in hidden(server))
    assert hidden(server) == [path]
    assert len(work.names("dir")) == 1


@pytest.mark.parametrize("refused", [0, 1])
def test_one_that_the_server_refuses_to_move_keeps_no_other_from_being_shown(
    server: Server, work: Mortal, refused: int
) -> None:
    """save-protocol R4: every hidden item of this mount that no record explains is shown."""
    server.set(read_only="enforced")
    stuck = [stray(work, Role.STAGED) for _ in range(2)][refused]
    server.store.set_permission(stuck, "readOnly")
    eventually(lambda: work.names("dir") and hidden(server) == [stuck])


def test_a_directory_that_is_just_being_made_is_no_leftover(
    server: Server, mortal: Callable[..., Mortal]
) -> None:
    """save-protocol R12: what a listing showed under a hidden name may have its own by now, and be full."""

    def act() -> None:
        mount.write_back.namespace.refresh()
        mount.write_back.cleanup.expose_orphans()

    mount = mortal(At("before update", 1, act))
    mount.boundaries.arm()
    mount.write_back.replace.make_directory("dir/below")
    mount.boundaries.disarm()
    assert visible(server) == {"dir": None, "dir/below": None}
    mount.settle()
    assert visible(server) == {"dir": None, "dir/below": None}


def test_transaction_ids_are_forgotten_once_a_listing_has_shown_what_they_left(
    server: Server, work: Mortal
) -> None:
    """semantics 6, Bounds: what the journal holds at rest does not grow with the number of saves."""
    server.store.seed({f"file-{number}": "old" for number in range(5)}, age=60)
    for number in range(5):
        work.write(f"file-{number}", b"new", fsync=True)
    eventually(work.at_rest)
    (journal,) = (work.home / "state").glob("**/journal.db")
    eventually(lambda: bool(work.names()) and rows_in(journal)[0]["tombstone"] == 0)

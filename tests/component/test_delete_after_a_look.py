"""Between the last look at an item and its deletion nothing takes time: what the job writes in between is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
from tests.support.boundaries import Mortal
from tests.support.serverside import contents

from jobfs.emulator import Server
from jobfs.save import cleanup, items
from jobfs.save.context import Context

OLD, USERS, JOBS = b"the old content", b"what the user wrote", b"the job's other"


@pytest.fixture
def work(server: Server, mortal: Callable[..., Mortal]) -> Mortal:
    server.store.seed({"dir/file": OLD, "dir/new": USERS}, age=60)
    work = mortal(write_back_delay=30)
    assert work.read("dir/file") == OLD
    return work


def busy_readers(work: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    """While open handles fetch the bytes of the item, the job writes to it."""
    done: list[str] = []

    def spare(context: Context, item_id: str) -> None:
        item = work.server.store.item_by_id(item_id)
        if not done and work.server.store.content_of(item_id) == OLD:
            done.append(item_id)
            work.server.store.write(item.path, JOBS)
            time.sleep(0.06)

    for module in (cleanup, items):
        monkeypatch.setattr(module, "fetch_bytes_for_handles", spare)


def rewrite(work: Mortal) -> None:
    work.write("dir/file", USERS, flags=os.O_WRONLY | os.O_TRUNC)


def test_bytes_the_job_writes_to_an_aside_before_its_deletion_are_kept(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md R7: look again before a delete."""
    busy_readers(work, monkeypatch)
    work.vfs.rename("dir/new", "dir/file")
    work.settle()
    assert server.store.read("dir/file") == USERS
    assert contents(server) == sorted([USERS, JOBS])


def test_bytes_the_job_writes_before_an_unlink_deletes_the_item_are_kept(
    server: Server, work: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """save/protocol.md, The steps, `cancelled`: T's item if it is base."""
    rewrite(work)
    busy_readers(work, monkeypatch)
    work.vfs.unlink("dir/file")
    work.settle({"dir": None, "dir/new": USERS, "dir/file": JOBS})


def test_an_unlinked_file_is_recognised_by_bytes_after_a_directory_rename(
    server: Server, work: Mortal
) -> None:
    """vfs/semantics.md 4: a file that was unlinked does not come back; here on a server that touches all that moves."""
    server.set(move_touches="tree")
    work.write("dir/file", USERS, flags=os.O_RDWR)
    work.vfs.rename("dir", "moved")
    work.vfs.unlink("moved/file")
    work.settle({"moved": None, "moved/new": USERS})

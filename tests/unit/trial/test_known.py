"""What a try has found out is used by mounts of that server, whoever's they are, and is never asked again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobfs.api import fixed_key
from jobfs.cli.graph import build
from jobfs.emulator import Server
from jobfs.nodes import Kind
from jobfs.settings import load
from jobfs.state import directory as slot
from jobfs.state import server as servers
from jobfs.trial import clear, known, run
from jobfs.vfs import Caller, Vfs

from .conftest import trying

_CALLER = Caller(os.getuid(), os.getgid(), os.getpid())


def try_it(server: Server, tmp_path: Path) -> None:
    """What the command does: try, and remember."""
    with trying(server, tmp_path) as trial:
        list(run(trial))
        clear(trial)
        found = known(trial)
    assert found is not None
    servers.remember(tmp_path / "state", server.url, found)
    server.log.clear()


@contextmanager
def mounted(server: Server, tmp_path: Path) -> Iterator[Vfs]:
    """A mount as the command line builds it, without a kernel."""
    settings = load({
        "base_url": f"{server.url}/", "state_dir": str(tmp_path / "state"), "cache_dir": str(tmp_path / "cache"),
        "write_back_delay": 0.05,
    })  # fmt: skip
    place = slot.acquire(settings.state_dir, server.job, "/mnt", settings.base_url)
    mount = build(settings, server.job, place, fixed_key(server.key))
    mount.vfs.start()
    yield mount.vfs
    mount.vfs.stop()
    mount.close()
    place.close()


def written(vfs: Vfs, paths: list[str]) -> None:
    for path in paths:
        handle = vfs.create(path, 0o644, os.O_WRONLY, _CALLER).fh
        vfs.write(handle, b"x", 0)
        vfs.release(handle)
    assert vfs.flush_all(None, 20, None) == []


def test_a_mount_makes_new_files_in_one_request_and_asks_nothing(server: Server, tmp_path: Path) -> None:
    try_it(server, tmp_path)
    with mounted(server, tmp_path) as vfs:
        written(vfs, [f"file{number}" for number in range(4)])
    assert [entry.operation for entry in server.log.changes()] == ["create"] * 4


def test_a_mount_sends_the_form_that_was_taken_at_once(server: Server, tmp_path: Path) -> None:
    server.set(
        create_encodings="json", type_spelling="short", input_spelling="own", create_existing="duplicate"
    )
    try_it(server, tmp_path)
    with mounted(server, tmp_path) as vfs:
        written(vfs, ["file"])
    assert [entry.status for entry in server.log.changes()] == [200, 200]


def test_what_is_not_true_any_more_costs_a_request_and_no_more(server: Server, tmp_path: Path) -> None:
    try_it(server, tmp_path)
    server.set(create_encodings="json", type_spelling="short", input_spelling="own")
    with mounted(server, tmp_path) as vfs:
        written(vfs, ["file"])
    assert server.store.read("file") == b"x"


def test_where_names_are_changed_nothing_is_made_straight_at_its_name(server: Server, tmp_path: Path) -> None:
    """save/protocol.md R9: what came under another name would stay there."""
    server.set(name_form="nfc")
    try_it(server, tmp_path)
    with mounted(server, tmp_path) as vfs:
        written(vfs, ["file"])
    assert [entry.operation for entry in server.log.changes()] == ["create", "update"]


def test_a_move_that_leaves_times_alone_is_known(server: Server, tmp_path: Path) -> None:
    server.set(move_touches="no", move_carries=False)
    try_it(server, tmp_path)
    found = servers.recall(tmp_path / "state", server.url)
    assert found.moves_keep_updated_at
    assert found.moves_carry is False
    assert found.rejects == {Kind.FILE: True, Kind.DIRECTORY: True}


def test_of_a_try_that_did_not_get_far_nothing_is_kept(server: Server, tmp_path: Path) -> None:
    server.faults.rate("error", 1.0, on="change", status=403)
    with trying(server, tmp_path) as trial:
        list(run(trial))
        assert known(trial) is None

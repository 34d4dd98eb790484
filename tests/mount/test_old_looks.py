"""A rename over a file on a busy line, through a mount: what the job renames while a request waits for its connection stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.mounts import MountedJob
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

OLD, NEW = b"the old content", b"what the user wrote"


def test_a_file_renamed_while_its_replacement_waited_is_not_lost(
    server: Server, mount: Callable[..., MountedJob]
) -> None:
    """save/protocol.md R8: a look that grew old in the queue is repeated before the file is set aside."""
    server.store.seed({"file": OLD, "new": NEW, "busy": "x"}, age=60)
    mounted = mount(**{"max-connections": "1", "ttl": "60"})
    path = mounted.path / "file"
    assert (path.read_bytes(), (mounted.path / "new").read_bytes()) == (OLD, NEW)
    busy = os.open(mounted.path / "busy", os.O_RDONLY)
    try:
        server.log.clear()
        server.faults.fail_next("slow", on="find", path="file", delay=1.0)
        server.faults.fail_next("slow", on="update", path="busy", delay=2.0)
        with ThreadPoolExecutor(2) as threads:
            renaming = threads.submit(os.rename, mounted.path / "new", path)
            eventually(lambda: server.log.count("find"), "the rename looks at what it replaces")
            # It is before the rename in the queue for the one connection.
            changing = threads.submit(os.fchmod, busy, 0o444)
            eventually(lambda: server.log.count("update"), "the rename waits")
            server.store.move("file", "elsewhere")
            renaming.result(20)
            changing.result(20)
    finally:
        os.close(busy)
    mounted.wait_until_settled()
    assert visible(server) == {"file": NEW, "elsewhere": OLD, "busy": b"x"}

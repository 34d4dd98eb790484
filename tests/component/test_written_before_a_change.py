"""What the job writes between a read and a rename or chmod of this mount is kept, though an old look justified that request."""

from __future__ import annotations

import os
import time

import pytest
from tests.support.serverside import visible
from tests.support.waiting import eventually
from tests.support.workspaces import Start, settled

from jobfs.emulator import Server

OLD = b"old content"


@pytest.mark.parametrize("how", ["rename", "rename over", "chmod"])
@pytest.mark.parametrize("jobs", [b"JOB content", b"the job's longer content"], ids=["same size", "another"])
def test_what_the_job_wrote_before_a_change_by_an_old_look_is_kept(
    server: Server, start: Start, how: str, jobs: bytes
) -> None:
    """vfs/semantics.md 4.42, 4.46: the program has read what was there before the job wrote."""
    server.store.seed({"file": OLD, "other": b"other"}, age=60)
    work = start(ttl=30.0)
    work.names()
    assert work.read("file") == OLD
    seen = time.monotonic()
    server.store.write("file", jobs)
    eventually(lambda: time.monotonic() > seen + 0.1, "the look is older than a round trip")
    name = {"rename": "new", "rename over": "other", "chmod": "file"}[how]
    if how == "chmod":
        work.vfs.chmod("file", 0o444)
        work.vfs.chmod("file", 0o644)
    else:
        work.vfs.rename("file", name)  # by another program
    with work.opening(name, os.O_WRONLY | os.O_TRUNC) as fh:
        work.vfs.write(fh, b"user", 0)
    settled(work)
    assert jobs in visible(server).values()

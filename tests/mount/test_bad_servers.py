"""An answer without an end takes a bounded amount of a mount's time, memory and disk."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.files import errno_from
from tests.support.forks import ForkServer, forking
from tests.support.gateway import Gateway, Reply, endless, gateway
from tests.support.mounts import MountedJob
from tests.support.waiting import eventually

from jobfs.emulator import Server

#: --timeout, seconds that a call may take beyond it, and bytes that one attack may add to the mount's peak of memory.
TIMEOUT, SLACK, ROOM = 10, 10, 256 << 20
GZIP = (("Content-Encoding", "gzip"),)


@pytest.fixture
def before(server: Server) -> Iterator[Gateway]:
    with gateway(server) as made:
        yield made
        made.answer = lambda asked: None


@pytest.fixture
def mounted(before: Gateway, tmp_path: Path, forks: ForkServer) -> Iterator[MountedJob]:
    """A mount behind the gateway, with known.txt in it, of which nothing was asked yet."""
    before.server.store.write("known.txt", b"known")
    with forking(forks, before, tmp_path / "home", timeout=TIMEOUT, cache_size="16M") as job:  # type: ignore[arg-type]
        yield job
        before.closed.set()


def peak(job: MountedJob) -> int:
    """The most memory that the mount's process has had, in bytes."""
    assert job.process is not None
    (kilobytes,) = re.findall(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{job.process.pid}/status").read_text())
    return int(kilobytes) << 10


def test_an_endless_listing_is_eio_and_single_names_are_found(before: Gateway, mounted: MountedJob) -> None:
    """vfs/semantics.md 5.8: EIO within the deadline; the memory it takes is bounded; names and bytes are served, and saved."""
    bomb, used = gzip.compress(b" " * (64 << 20)), peak(mounted)
    before.answer = lambda asked: Reply(endless(before, bomb), 200, GZIP) if asked.listing else None
    began = time.monotonic()
    assert errno_from(os.listdir, mounted.path) == errno.EIO
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert (mounted.path / "known.txt").read_bytes() == b"known"
    assert not (mounted.path / "unknown.txt").exists()
    for name in ("known.txt", "new.txt"):
        (mounted.path / name).write_bytes(b"saved")
    mounted.flush()
    for name in ("known.txt", "new.txt"):
        assert before.server.store.read(name) == b"saved"
    # Just after another attempt to list, the server counts as one that does not answer, until it answers such a look.
    looks = (mounted.path / f"unknown-{number}" for number in itertools.count())
    eventually(lambda: not next(looks).exists() and "can't be listed" in str(mounted.status()["problems"]))
    assert peak(mounted) - used < ROOM
    before.answer = lambda asked: None
    eventually(lambda: errno_from(os.listdir, mounted.path) == 0)

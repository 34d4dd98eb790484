"""The server refuses connections: what needs it fails at once, and what was saved is sent later."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

#: The default of --timeout, which no call here is to wait for, and far less.
TIMEOUT, SOON = 30, 8.0
FILES = {"a": b"a", "b": b"b", "c": b"c", "d/notes": b"notes\n", "d/unread": b"unread"}
TREE = {"d": None, "empty": None, **FILES}


@pytest.fixture
def mounted(server: Server, mount: Mount) -> MountedJob:
    """A mount whose names are known, and whose kernel has none of them for long."""
    server.store.seed(TREE, age=60)
    mounted = mount(timeout=TIMEOUT, ttl=1)
    for directory, _, _ in os.walk(mounted.path):
        os.listdir(directory)
    (mounted.path / "d/notes").read_bytes()
    return mounted


@contextmanager
def soon(calls: str) -> Iterator[None]:
    """All calls in an outage together take far less time than one call may."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON, calls


def requests(mounted: MountedJob) -> int:
    count: int = mounted.status()["server"]["requests"]
    return count


def test_calls_fail_fast_while_the_server_is_unreachable_and_then_recover(
    server: Server, mounted: MountedJob
) -> None:
    """vfs/semantics.md 1.14: the first call after about two seconds of refusals;
    then one request a second for the whole mount.
    """
    at = mounted.path
    with server.down():
        with soon("the first call"):
            assert errno_from(os.rename, at / "a", at / "a2") == errno.ENETUNREACH
        before, began = requests(mounted), time.monotonic()
        calls: list[Callable[[], object]] = [
            lambda: os.rename(at / "a", at / "a3"),
            lambda: os.rename(at / "a", at / "b"),
            lambda: os.unlink(at / "b"),
            lambda: os.chmod(at / "c", 0o444),
            lambda: os.rmdir(at / "empty"),
            (at / "d/unread").read_bytes,
        ]
        with soon("all of them"):
            assert [errno_from(call) for call in calls * 5] == [errno.ENETUNREACH] * 30
            assert sorted(os.listdir(at)) == ["a", "b", "c", "d", "empty"]
            assert (at / "d/notes").read_bytes() == b"notes\n"
            os.mkdir(at / "made")
            assert errno_from(save_file, at / "c", b"saved") == errno.EIO
        assert requests(mounted) - before <= 2 + time.monotonic() - began
    eventually(lambda: not errno_from(os.rename, at / "a", at / "a4"))
    mounted.wait_until_settled()
    tree = {name: content for name, content in TREE.items() if name != "a"}
    assert visible(server) == {**tree, "a4": b"a", "c": b"saved", "made": None}
    messages = [line for line in mounted.log.splitlines() if "reached" in line or "answers again" in line]
    assert len(messages) == 2, mounted.log
    assert "the server can't be reached (no connection: [Errno 111] Connection refused): " in messages[0]

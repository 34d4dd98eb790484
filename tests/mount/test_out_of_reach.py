"""The server refuses connections: what needs it fails at once, and what was saved is sent later."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob
from tests.support.serverside import visible
from tests.support.waiting import eventually, eventually_equal

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


def test_a_server_restart_within_two_seconds_causes_no_error(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 5.16: a connection that was never established is tried again for 2 s."""
    at = mounted.path
    calls: list[Callable[[], object]] = [
        lambda: os.rename(at / "a", at / "a2"),
        lambda: save_file(at / "c", b"saved"),
        lambda: os.chmod(at / "a2", 0o444),
        lambda: os.unlink(at / "b"),
        lambda: os.rmdir(at / "empty"),
        (at / "d/unread").read_bytes,
    ]
    for call in calls:
        server.stop()
        restart = threading.Timer(0.5, server.start)
        restart.start()
        try:
            call()
        finally:
            restart.join()
    mounted.wait_until_settled()
    left = {name: content for name, content in TREE.items() if name[0] == "d"}
    assert visible(server) == {**left, "a2": b"a", "c": b"saved"}
    assert "can't be reached" not in mounted.log


def test_unsent_files_stay_readable_when_all_cached_names_have_expired(
    server: Server, mount: Mount, mounted: MountedJob
) -> None:
    """vfs/semantics.md 1.13: what is known is served up to `--stale-if-error` seconds."""
    mounted.remount(stale_if_error=1)
    at = mounted.path
    for directory, _, _ in os.walk(at):
        os.listdir(directory)
    with server.down():
        (at / "d/new").write_bytes(b"new")
        (at / "c").write_bytes(b"rewritten")
        eventually_equal(lambda: errno_from(os.listdir, at / "empty"), errno.ENETUNREACH)
        eventually_equal(lambda: errno_from(os.stat, at / "a"), errno.ENETUNREACH)
        assert sorted(os.listdir(at)) == ["a", "b", "c", "d", "empty"], (
            "it never looks as if the others were gone"
        )
        assert sorted(os.listdir(at / "d")) == ["new", "notes", "unread"]
        assert [(at / name).read_bytes() for name in ("d/new", "c")] == [b"new", b"rewritten"]
        assert errno_from(os.stat, at / "d/unread") == errno.ENETUNREACH
    mounted.wait_until_settled()
    assert visible(server) == {**TREE, "d/new": b"new", "c": b"rewritten"}

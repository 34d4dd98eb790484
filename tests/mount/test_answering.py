"""What the mount answers beside its files: at once, whatever else is under way, and leaving nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from tests.support.holders import holding
from tests.support.mounts import MountedJob, environment
from tests.support.waiting import eventually

from jobfs import control
from jobfs.emulator import Server

Mount = Callable[..., MountedJob]


def threads(mounted: MountedJob) -> int:
    """How many threads the mount's process has."""
    assert mounted.process is not None
    return len(os.listdir(f"/proc/{mounted.process.pid}/task"))


def test_a_flush_that_was_broken_off_leaves_no_thread(server: Server, mount: Mount) -> None:
    """semantics 6, bounds: by Ctrl-C, by a client that is gone, by one that is killed."""
    mounted = mount(timeout=60)
    assert os.listdir(mounted.path) == []
    server.faults.rate("unavailable", 1.0, on="change")
    (mounted.path / "unsent.txt").write_bytes(b"kept")
    eventually(lambda: mounted.status()["unsent"][0]["attempts"] >= 1)
    # What others start meanwhile, once: a timer, a thread of a pool.
    most = threads(mounted) + 2
    for number in (signal.SIGINT, signal.SIGKILL):
        flushes = [
            subprocess.Popen(
                [sys.executable, "-m", "jobfs", "flush", str(mounted.path)],
                env=environment(mounted.home, mounted.key),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(3)
        ]
        # Three programs have to start, on a machine that may be busy with others.
        eventually(lambda: threads(mounted) > most, lambda: threads(mounted), timeout=40)
        for flush in flushes:
            flush.send_signal(number)
            flush.wait(20)
        eventually(lambda: threads(mounted) <= most, lambda: threads(mounted))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            (place,) = (mounted.state / server.job).glob(f"*/{control.SOCKET}")
            with control._address(place.parent) as address:
                connection.connect(address)
            connection.sendall(b'{"call": "flush"}\n')
    eventually(lambda: threads(mounted) <= most, lambda: threads(mounted))


@pytest.mark.parametrize("on", ["change", "*"])
def test_status_answers_within_a_second_while_the_server_is_silent_and_forty_programs_wait(
    server: Server, mount: Mount, on: str
) -> None:
    """semantics 6: nothing that waits for the server keeps `status` from answering."""
    server.store.seed({f"f{number}": "text" for number in range(40)})
    mounted = mount(timeout=20, ttl=1)
    os.listdir(mounted.path)
    with ExitStack() as stack:
        programs = [stack.enter_context(holding(mounted.path / f"f{number}")) for number in range(40)]
        for program in programs:
            assert program.does("write mine") == "ok"
        server.faults.rate("hang", 1.0, on=on)
        for program in programs:
            program.begins("fsync")
        eventually(lambda: mounted.status()["unsent"][0]["state"] == "uploading")
        slowest = 0.0
        end = time.monotonic() + 7
        while time.monotonic() < end:
            began = time.monotonic()
            assert len(mounted.status()["unsent"]) == 40
            slowest = max(slowest, time.monotonic() - began)
        mounted.kill()
        assert slowest < 3.0, "a second, on a machine that is not busy with anything else"


def test_the_log_of_an_outage_is_short(server: Server, mount: Mount) -> None:
    """semantics 6, bounds: an error that repeats is logged once and counted."""
    mounted = mount(log_level="info")
    assert os.listdir(mounted.path) == []
    server.faults.rate("unavailable", 1.0, on="change")
    for number in range(60):
        (mounted.path / f"f{number}").write_bytes(b"text")
    # In an outage one save a second is tried.
    eventually(lambda: sum(entry["attempts"] for entry in mounted.status()["unsent"]) >= 20, timeout=60)
    server.faults.clear()
    mounted.settled()
    mounted.umount()
    lines = [line for line in mounted.log.splitlines() if "tried again later" in line]
    assert 0 < len(lines) <= 11
    assert "more like this" in lines[-1]

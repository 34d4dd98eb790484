"""Many programs on a server that is silent: each call ends in time, and what is known is answered (semantics.md section 3)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, is_mounted

from jobfs.emulator import Server
from jobfs.emulator.faults import Rule

TIMEOUT, MANY = 3.0, 40
#: The promise: `--timeout` without progress, and 5 s.
PROMISE = TIMEOUT + 5


def fsync(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, b"new")
        os.fsync(handle)
    finally:
        os.close(handle)


CALLS: dict[str, Callable[[Path], object]] = {
    "fsync": fsync,
    "unlink": os.unlink,
    "rename over": lambda path: path.rename(path.with_name(f"over-{path.name}")),
    "mkdir": lambda path: path.with_name(f"directory-{path.name}").mkdir(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("silent_on", ["POST+DELETE", "*"])
def test_forty_calls_end_as_soon_as_one(
    server: Server, mount: Callable[..., MountedJob], name: str, silent_on: str
) -> None:
    """One deadline a call, whatever it has to ask; SIGTERM ends the mount within twice that."""
    names = [f"f{number}" for number in range(MANY)]
    server.store.seed({f"{over}{name}": "x" for name in names for over in ("", "over-")} | {"known/a": "x"})
    job = mount(timeout=TIMEOUT)
    files = [job.path / name for name in names]
    assert len(os.listdir(job.path)) == 2 * MANY + 1
    assert os.listdir(job.path / "known") == ["a"]
    [path.read_text() for path in files]
    server.faults.add(Rule("silent", silent_on))

    def call(path: Path) -> tuple[float, str]:
        began = time.monotonic()
        try:
            CALLS[name](path)
        except OSError as error:
            return time.monotonic() - began, os.strerror(error.errno or 0)
        return time.monotonic() - began, ""

    with ThreadPoolExecutor(MANY) as pool:
        calls = [pool.submit(call, path) for path in files]
        asked = time.monotonic()
        job.status()
        if silent_on != "*" and name == "fsync":
            assert os.stat(job.path / "known" / "a").st_size == 1
        assert time.monotonic() - asked < TIMEOUT, "what is known is answered, however many wait"
        ended = [call.result() for call in calls]
    # A directory whose name is known to be free is acknowledged, and made once the server answers.
    assert name == "mkdir" or all(error for _, error in ended)
    assert max(seconds for seconds, _ in ended) < PROMISE, sorted(ended)

    began = time.monotonic()
    assert job.process is not None
    os.kill(job.process.pid, signal.SIGTERM)
    unsent = job.process.wait(60)
    assert time.monotonic() - began < 2 * TIMEOUT + 5
    assert unsent == (1 if "not sent yet" in job.log else 0)
    assert not is_mounted(job.path)

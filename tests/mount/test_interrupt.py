"""Programs that wait for the server can be ended, and nothing that they wrote is lost thereby."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

_REQUESTS = {"read": ("list", "find"), "change": ("create",), "download": ("download",)}
#: Ways to wait, and the requests that hang. The last call of each takes the time.
WAITS = {
    "stat": ("os.stat('d/file')", "read"),
    "listing": ("os.listdir('d')", "read"),
    "open": ("os.open('d/file', os.O_RDONLY)", "read"),
    "read": ("os.read(os.open('d/file', os.O_RDONLY), 10)", "download"),
    "fsync": ("f = os.open('d/new', os.O_CREAT | os.O_RDWR); os.write(f, b'mine'); os.fsync(f)", "change"),
    "close": ("f = os.open('d/new', os.O_CREAT | os.O_RDWR); os.write(f, b'mine'); os.close(f)", "change"),
}

#: With SIGINT as a terminal's shell leaves it, or as a program's own handler takes it. No other process ends it.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler if sys.argv[2] == "handler" else signal.SIG_DFL)
print("ready", flush=True)
sys.stdin.readline()
try:
    exec(sys.argv[1])
except KeyboardInterrupt:
    print("interrupted")
"""


@contextmanager
def program(cwd: Path, code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in `cwd` that runs `code` as soon as it reads `go`."""
    command = ["env", "-C", str(cwd), sys.executable, "-c", PROGRAM, code, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "ready\n"
            yield running
        finally:
            running.kill()


def go(program: subprocess.Popen[str]) -> None:
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()


def hanging(server: Server, on: str) -> Callable[[], object]:
    """From now on nothing of the kind `on` is answered; the function returned waits until something of it was asked."""
    server.faults.set_rate("hang", 1.0, on=on)

    def count() -> int:
        return sum(map(server.log.count, _REQUESTS[on]))

    before = count()
    return lambda: eventually(lambda: count() > before, f"{on} is asked for")


@pytest.mark.parametrize(("wait", "number"), [
    ("stat", 0), ("listing", 0), ("open", 0), ("read", signal.SIGINT), ("fsync", signal.SIGKILL), ("close", 0),
])  # fmt: skip
def test_a_signal_ends_a_program_that_waits_for_the_server(
    server: Server, mount: Mount, wait: str, number: int
) -> None:
    """vfs/semantics.md 3.16: Ctrl-C works, though the call itself would last as long as --timeout; 0: with a handler of
    its own. An fsync that was interrupted has promised nothing, and has lost nothing.
    """
    code, on = WAITS[wait]
    server.store.seed({"d/file": "text"}, age=60)
    options = {"sync_on_close": True} if wait == "close" else {}
    mounted = mount(timeout=80, ttl=0, **options)
    with program(mounted.path, code, "default" if number else "handler") as waiting:
        asked = hanging(server, on)
        go(waiting)
        asked()
        assert waiting.poll() is None
        waiting.send_signal(number or signal.SIGINT)
        assert waiting.communicate(timeout=20)[0] == ("" if number else "interrupted\n")
        assert not number or waiting.returncode == -number
    server.faults.clear()
    if wait == "open":
        mounted.umount()  # the file whose open was interrupted is closed: it keeps nothing in use
    elif wait in ("fsync", "close"):
        mounted.kill()  # hung requests would last as long as --timeout
        mounted.mount()
        mounted.wait_until_settled()
        assert visible(server) == {"d": None, "d/file": b"text", "d/new": b"mine"}


def test_signals_that_do_not_end_a_program_fail_no_call(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md is silent: on a disk no stat, open, read or fsync is interrupted by a timer or a child."""
    server.store.seed({"d/file": "text"}, age=60)
    code = """
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
os.stat("d/file")
f = os.open("d/file", os.O_RDWR)
os.read(f, 10)
os.write(f, b" and mine")
os.fsync(f)
os.close(f)
print(len(ticks) > 1)
"""
    with program(mounted.path, code, "handler") as busy:
        server.faults.set_rate("slow", 1.0, delay=0.6)
        go(busy)
        assert busy.communicate(timeout=60)[0] == "True\n"
    assert server.store.read("d/file") == b"text and mine"

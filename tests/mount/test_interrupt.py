"""Programs that wait for the server can be ended, and nothing that they wrote is lost thereby."""

from __future__ import annotations

import signal

import pytest
from tests.support.holders import python
from tests.support.mounts import Mount, MountedJob
from tests.support.waiting import eventually

from jobfs.emulator import Server

_WRITES = "f = os.open('d/new', os.O_CREAT | os.O_RDWR); os.write(f, b'mine'); "
#: Ways to wait, the kind of requests that hang, and their operations. The last call of each takes the time.
WAITS = {
    "stat": ("os.stat('d/file')", "read", ("list", "find")),
    "listing": ("os.listdir('d')", "read", ("list", "find")),
    "open": ("os.open('d/file', os.O_RDONLY)", "read", ("list", "find")),
    "read": ("os.read(os.open('d/file', os.O_RDONLY), 10)", "download", ("download",)),
    "fsync": (f"{_WRITES}os.fsync(f)", "change", ("create",)),
    "close": (f"{_WRITES}os.close(f)", "change", ("create",)),
}


@pytest.mark.parametrize(("wait", "number"), [
    ("stat", 0), ("listing", 0), ("open", 0), ("read", signal.SIGINT), ("fsync", signal.SIGKILL), ("close", 0),
])  # fmt: skip
def test_a_signal_ends_a_wait_for_the_server(server: Server, mount: Mount, wait: str, number: int) -> None:
    """vfs/semantics.md 3.16: Ctrl-C works, though the call itself would last as long as --timeout; 0: with a handler of
    its own. An fsync that was interrupted has promised nothing, and has lost nothing.
    """
    code, on, operations = WAITS[wait]
    server.store.seed({"d/file": "text"}, age=60)
    options = {"sync_on_close": True} if wait == "close" else {}
    mounted = mount(timeout=80, ttl=0, **options)

    def asked() -> int:
        return sum(map(server.log.count, operations))

    with python(mounted.path) as program:
        # As a terminal's shell leaves it, or as a program's own handler takes it. No other process ends it.
        handler = "SIG_DFL" if number else "default_int_handler"
        assert program.does(f"signal.signal(signal.SIGINT, signal.{handler})") == "ok"
        server.faults.set_rate("hang", 1.0, on=on)
        before = asked()
        program.begins(code)
        eventually(lambda: asked() > before, f"{on} is asked for")
        assert program.process.poll() is None
        program.process.send_signal(number or signal.SIGINT)
        assert program.process.communicate(timeout=20)[0] == ("" if number else "interrupted\n")
        assert not number or program.process.returncode == -number
    server.faults.clear()
    if wait == "open":
        mounted.umount()  # the file whose open was interrupted is closed: it keeps nothing in use
    elif wait in ("fsync", "close"):
        mounted.kill()  # hung requests would last as long as --timeout
        mounted.mount()
        mounted.wait_until_settled({"d": None, "d/file": b"text", "d/new": b"mine"})


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
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(ticks) > 1
"""
    with python(mounted.path) as program:
        server.faults.set_rate("slow", 1.0, delay=0.6)
        assert program.does(code) == "ok"
    assert server.store.read("d/file") == b"text and mine"

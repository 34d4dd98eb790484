"""What `jobfs flush` and `jobfs umount` say while they wait for a server that does not answer (vfs/semantics.md 6.17)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.support.mounts import Mount, MountedJob, is_mounted
from tests.support.serverside import visible
from tests.support.terminal import on_terminal

from jobfs.emulator import Server

FILES = {"a": b"a", "b": b"b", "dir/c": b"c"}
#: Both need only be shorter than the mount's own patience.
TIMEOUT = "5"


@contextmanager
def hanging(server: Server) -> Iterator[None]:
    """The server takes requests and never answers."""
    server.faults.set_rate("silent", 1.0)
    try:
        yield
    finally:
        server.faults.clear()


@pytest.fixture
def mounted(server: Server, mount: Mount) -> MountedJob:
    """Three files are unsent, and are not sent before a command asks for it."""
    server.store.seed({"dir": None}, age=60)
    mounted = mount(write_back_delay=600, timeout=30)
    for name, text in FILES.items():
        (mounted.path / name).write_bytes(text)
    return mounted


@pytest.mark.parametrize("command", ["flush", "umount"])
@pytest.mark.parametrize(
    ("fault", "why"), [("down", "can't be reached"), ("hanging", "does not answer")], ids=["refuses", "hangs"]
)
def test_a_wait_for_a_silent_server_prints_one_line(
    server: Server, mounted: MountedJob, command: str, fault: str, why: str
) -> None:
    """vfs/semantics.md 6.17: one line, with what is unsent; then what is left."""
    with server.down() if fault == "down" else hanging(server):
        done = mounted.jobfs(command, "--timeout", TIMEOUT, mounted.path)
    printed, *more = done.stderr.splitlines()
    assert (
        printed == f"jobfs: waiting for the server, which {why}: 3 files are unsent; Ctrl-C ends the waiting"
    )
    assert (done.returncode, [line[:16] for line in more]) == (1, ["jobfs: 3 unsent:"])


@pytest.mark.parametrize("command", ["flush", "umount"])
def test_no_line_is_printed_while_the_server_answers(
    server: Server, mounted: MountedJob, command: str
) -> None:
    """vfs/semantics.md 6.17: slow answers too, as long as they come."""
    server.faults.set_rate("slow", 1.0, on="change", delay=0.5)
    done = mounted.jobfs(command, mounted.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert visible(server) == {"dir": None, **FILES}


def test_the_line_stays_on_a_terminal_and_ctrl_c_ends_the_wait(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 6.17: beside the bar; the files are sent afterwards."""
    with server.down(), on_terminal(mounted.home, "umount", str(mounted.path)) as terminal:
        terminal.shows("waiting for the server, which can't be reached: 3 files are unsent; Ctrl-C ends")
        terminal.keys("C-c")
        terminal.shows("interrupted")
        assert terminal.wait_for_exit_code() == 130
        assert is_mounted(mounted.path)
    mounted.umount()
    assert visible(server) == {"dir": None, **FILES}

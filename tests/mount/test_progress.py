"""Long work shows itself: a bar on a terminal, lines in a pipe; Ctrl-C leaves the rest to the journal (vfs/semantics.md 6)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.mounts import MountedJob, environment, is_mounted
from tests.support.ptys import on_terminal
from tests.support.serverside import visible

from jobfs.emulator import Server

#: More than the buffers of a connection hold, over a line that takes its time for it.
_BIG, _SLOW = 24_000_000, 500_000
#: How it is told: files, bytes and the rate.
_AMOUNT = r"\d of \d files?, [1-9][\d.]* [kM]B of 24.0 MB"


def unsent(server: Server, mounted: MountedJob) -> dict[str, bytes]:
    """Makes two files that take a while; what the server has to have in the end."""
    (mounted.path / "big.bin").write_bytes(b"x" * _BIG)
    (mounted.path / "second.bin").write_bytes(b"y" * 1000)
    server.set(bandwidth=_SLOW)
    return {"big.bin": b"x" * _BIG, "second.bin": b"y" * 1000}


def hurry(server: Server) -> None:
    """The line is fast from now on; what is under way on the slow one is broken off."""
    server.set(bandwidth=0)
    with server.down():
        pass


def in_a_pipe(mounted: MountedJob, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobfs", *map(str, arguments)],
        env=environment(mounted.home, mounted.key),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_umount_and_flush_show_how_far_they_are(server: Server, mount: Callable[..., MountedJob]) -> None:
    mounted = mount(write_back_delay=30)
    expected = unsent(server, mounted)
    for command in ("flush", "umount"):
        with on_terminal(mounted.home, mounted.key, command, mounted.path) as terminal:
            terminal.shows(rf"sending /.*{_AMOUNT} +[\d.]+ [kM]B/s")
            terminal.press_ctrl_c()
            assert terminal.ended() == 130
            assert "interrupted: " in terminal.screen
            assert "journal" in terminal.screen
            assert is_mounted(mounted.path)
    umount = in_a_pipe(mounted, "umount", mounted.path)
    hurry(server)
    umount.communicate(timeout=40)
    assert umount.returncode == 0
    mounted.ended()
    assert visible(server) == expected

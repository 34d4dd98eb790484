"""Long work shows itself: a bar on a terminal, lines in a pipe; Ctrl-C leaves the rest to the journal (vfs/semantics.md 6)."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.mounts import MountedJob, is_mounted
from tests.support.ptys import on_terminal
from tests.support.serverside import visible

from jobfs.emulator import Server

#: More than the buffers of a connection hold, over a line that takes its time for it.
_BIG, _SLOW = 24_000_000, 500_000
#: How it is told: files, bytes and the rate.
_AMOUNT = r"\d of \d files?, [1-9][\d.]* [kM]B of 24.0 MB"


def test_umount_and_flush_show_how_far_they_are(server: Server, mount: Callable[..., MountedJob]) -> None:
    mounted = mount(write_back_delay=30)
    expected = {"big.bin": b"x" * _BIG, "second.bin": b"y" * 1000}
    for name, content in expected.items():
        (mounted.path / name).write_bytes(content)
    server.set(bandwidth=_SLOW)
    for command in ("flush", "umount"):
        with on_terminal(mounted.home, mounted.key, command, mounted.path) as terminal:
            terminal.shows(rf"sending /.*{_AMOUNT} +[\d.]+ [kM]B/s")
            terminal.press_ctrl_c()
            assert terminal.ended() == 130
            assert "interrupted: " in terminal.screen
            assert "journal" in terminal.screen
            assert is_mounted(mounted.path)
    # The line is fast from now on; what is under way on the slow one is broken off.
    server.set(bandwidth=0)
    with server.down():
        pass
    assert mounted.jobfs("umount", mounted.path).returncode == 0
    mounted.ended()
    assert visible(server) == expected

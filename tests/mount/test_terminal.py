"""What commands show on a terminal, as in a pipe: their words, how far long work is, Ctrl-C (vfs/semantics.md 6)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.files import errno_from, saved
from tests.support.mounts import MountedJob, is_mounted, jobfs
from tests.support.ptys import on_terminal
from tests.support.serverside import visible
from tests.support.waiting import eventually

from jobfs.emulator import Server

JOB = "j" * 24
#: The program in the virtual environment of these tests.
PROGRAM = Path(sys.executable).parent / "jobfs"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["completion", "bash"], 0, "complete -o nosort -F _jobfs_completion jobfs"),
        (["systemd-unit", JOB, "/mnt/job"], 0, f"ExecStart={PROGRAM} mount {JOB} /mnt/job --foreground\n"),
        (["set", "/"], 2, "jobfs: nothing to change: give --permission or --lifecycle\n"),
    ],
)
def test_a_command_prints_the_same_on_a_terminal(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = jobfs(*words, home=tmp_path)
    assert said in done.stdout + done.stderr
    with on_terminal(tmp_path, None, *words) as terminal:
        assert (terminal.ended(), done.returncode) == (code, code)
        assert terminal.screen.replace("\r\n", "\n") == done.stdout + done.stderr


def test_a_person_is_asked_before_a_save_is_given_up(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.12: `jobfs retry` and `jobfs discard` resolve it."""
    file = mounted.path / "file"
    server.faults.rate("error", 1.0, on="create", status=413, reason="Too large")
    assert errno_from(saved, file, b"content")
    eventually(lambda: mounted.status()["failed"])
    with on_terminal(mounted.home, None, "discard", file) as terminal:
        terminal.shows(r"Give up what was written to file.*\? \[y/N\]: ")
        terminal.answer("y")
        assert terminal.ended() == 0
        assert "\r\ngiven up: file (a copy is " in terminal.screen


#: More than the buffers of a connection hold, over a line that takes its time for it.
_BIG, _SLOW = 24_000_000, 500_000
#: How it is told: files, bytes and the rate.
_AMOUNT = r"\d of \d files?: sending /.* [1-9][\d.]*/24.0 MB +[\d.]+ [kM]B/s"


def test_umount_and_flush_show_how_far_they_are(server: Server, mount: Callable[..., MountedJob]) -> None:
    mounted = mount(write_back_delay=30)
    expected = {"big.bin": b"x" * _BIG, "second.bin": b"y" * 1000}
    for name, content in expected.items():
        (mounted.path / name).write_bytes(content)
    server.set(bandwidth=_SLOW)
    for command in ("flush", "umount"):
        with on_terminal(mounted.home, mounted.key, command, mounted.path) as terminal:
            terminal.shows(_AMOUNT)
            terminal.press_ctrl_c()
            assert terminal.ended() == 130
            assert "interrupted: " in terminal.screen
            assert "journal" in terminal.screen
            assert is_mounted(mounted.path)
    with on_terminal(mounted.home, mounted.key, "umount", mounted.path) as terminal:
        terminal.shows("sending ")
        server.set(bandwidth=0)
        with server.down():  # what is under way on the slow line is broken off
            pass
        assert terminal.ended() == 0
    mounted.ended()
    assert visible(server) == expected

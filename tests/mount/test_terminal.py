"""What the commands print on a terminal: progress, one line while they wait, after Ctrl-C (vfs/semantics.md 6)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.support.mounts import Mount, is_mounted
from tests.support.serverside import visible
from tests.support.terminal import on_terminal

from jobfs.emulator import Server

#: More than the buffers of a connection hold, over a line that takes its time for it.
_BIG, _SLOW = 24_000_000, 500_000
#: How progress is printed: files, bytes and the rate.
_AMOUNT = re.compile(r"\d of \d files?: sending /.* [1-9][\d.]*/24.0 MB +[\d.]+ [kM]B/s")


@pytest.mark.needs_program("tmux")
def test_umount_and_flush_show_their_progress(server: Server, mount: Mount) -> None:
    mounted = mount(write_back_delay=30)
    expected = {"big.bin": b"x" * _BIG, "second.bin": b"y" * 1000}
    for name, content in expected.items():
        (mounted.path / name).write_bytes(content)
    server.set(bandwidth=_SLOW)
    for command in ("flush", "umount"):
        with on_terminal(mounted.home, command, mounted.path) as terminal:
            terminal.shows(_AMOUNT)
            terminal.keys("C-c")
            assert terminal.wait_for_exit_code() == 130
            assert re.search("interrupted: .*kept", terminal.screen())
            assert is_mounted(mounted.path)
    with on_terminal(mounted.home, "umount", mounted.path) as terminal:
        terminal.shows("sending ")
        server.set(bandwidth=0)
        with server.down():  # what is under way on the slow line is broken off
            pass
        assert terminal.wait_for_exit_code() == 0
    mounted.wait_for_end()
    assert visible(server) == expected


@pytest.mark.needs_program("tmux")
def test_waiting_for_a_silent_server_prints_one_line(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.17: it stays beside the bar of a terminal; what is unsent is sent afterwards."""
    files = {"a": b"a", "b": b"b", "c": b"c"}
    mounted = mount(write_back_delay=600, timeout=30)
    for name, text in files.items():
        (mounted.path / name).write_bytes(text)
    waits = "waiting for the server, which {}: 3 files are unsent; Ctrl-C ends the waiting"
    server.faults.set_rate("silent", 1.0)
    done = mounted.jobfs("flush", "--timeout", "5", mounted.path)
    printed, *more = done.stderr.splitlines()
    assert printed == f"jobfs: {waits.format('does not answer')}"
    assert (done.returncode, [line[:16] for line in more]) == (1, ["jobfs: 3 unsent:"])
    server.faults.clear()
    with server.down(), on_terminal(mounted.home, "umount", mounted.path) as terminal:
        terminal.shows(waits.format("can't be reached"))
        terminal.keys("C-c")
        terminal.shows("interrupted")
        assert terminal.wait_for_exit_code() == 130
        assert is_mounted(mounted.path)
    mounted.umount()
    assert visible(server) == files


@pytest.mark.needs_program("tmux")
def test_the_mount_prints_the_same_on_a_terminal_and_outlives_it(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6.1: a daemon that returns once the mount answers."""
    mounted = mount(start=False)
    state = ("--state-dir", mounted.state)
    server_and_state = ("--base-url", server.url, "--cache-dir", mounted.cache, *state)

    def shown(*arguments: str | Path, key: str | None = server.key) -> str:
        with on_terminal(mounted.home, *arguments, key=key) as terminal:
            assert terminal.wait_for_exit_code() == 0, terminal.screen()
            return " ".join(terminal.screen().split())

    assert "a mount works, as far as these checks show" in shown("doctor", server.job, *server_and_state)
    said = shown("mount", server.job, mounted.path, *server_and_state)
    assert said.startswith(f"mounted {server.job} at {mounted.path}; its log is ")
    assert os.listdir(mounted.path) == []
    (mounted.path / "file").write_bytes(b"content")
    shown("flush", mounted.path, *state, key=None)
    assert "unsent 0 log " in shown("status", mounted.path, *state, key=None)
    assert "state clean" in shown("info", mounted.path / "file", *state, key=None)
    shown("umount", mounted.path, *state, key=None)
    assert not is_mounted(mounted.path)
    said = shown("recover", server.job, *server_and_state)
    assert f"nothing was left by the mount at {mounted.path}" in said
    assert server.store.read("file") == b"content"

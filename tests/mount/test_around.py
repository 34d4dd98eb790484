"""Around the mount: the daemon, and what the commands print on a terminal (vfs/semantics.md 6)."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.mounts import Mount, is_mounted
from tests.support.terminal import on_terminal

from jobfs.emulator import Server


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

"""What a mount reports about itself, through its real process: a pasted command, the live status, callers that hang up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.support.mounts import Mount, MountedJob
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server


def test_the_printed_command_of_a_conflict_executes_no_part_of_a_name(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    """vfs/semantics.md 6.16: as it is printed for a person, on one line, in three shells."""
    named = ["-", "$(touch RAN)", "'; touch RAN; '", "\\'\";touch RAN;#", "new\nline", "\x1b[2J"]
    for name in named:
        server.store.seed({f"{name}/n.md": "one\n", f"{name}/n.conflict-20260101T000000Z.md": "two\n"})
    out = mounted.jobfs("status", mounted.path).stdout
    commands = [line.strip() for line in out.splitlines() if line.startswith("    diff -u ")]
    assert len(commands) == len(named), out
    for shell in ("bash", "zsh", "fish"):
        for command in commands:
            words = [shell, "-c", command]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=20)
            unknown = shell == "fish" and "$'" in command
            assert unknown or done.stdout.endswith("-one\n+two\n"), (shell, command, done.stderr)
    assert not list(tmp_path.glob("RAN"))


def test_a_watch_shows_each_change_until_it_is_interrupted(server: Server, mounted: MountedJob) -> None:
    server.store.seed({"a.conflict-20260101T000000Z": "x"})
    assert os.listdir(mounted.path) == ["a.conflict-20260101T000000Z"]
    with on_terminal(mounted.home, "status", "--watch", mounted.path) as screen:
        screen.shows("! 1 conflict")
        screen.keys("C-c")
        assert screen.wait_for_exit_code() == 1
    with on_terminal(mounted.home, "status", "--watch", mounted.path) as screen:
        screen.shows("! 1 conflict")
        os.unlink(mounted.path / "a.conflict-20260101T000000Z")
        eventually(lambda: "conflict" not in screen.screen().partition("unsent")[2], screen.screen)
        assert screen.screen().count("items") == 1
    mounted.umount()
    assert mounted.jobfs("status", "--watch", mounted.path).returncode == 2


def threads(mounted: MountedJob) -> int:
    """How many threads the mount's process has."""
    assert mounted.process is not None
    return len(os.listdir(f"/proc/{mounted.process.pid}/task"))


def test_callers_that_hang_up_leave_no_thread(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6, Bounds: of `jobfs flush`, `jobfs wait` and `jobfs watch`."""
    mounted = mount(timeout=60)
    assert os.listdir(mounted.path) == []
    server.faults.set_rate("unavailable", 1.0, on="change")
    (mounted.path / "unsent.txt").write_bytes(b"kept")
    eventually(lambda: mounted.status()["unsent"][0]["attempts"] >= 1)
    # Threads that other parts start once: a timer, a thread of a pool.
    most = threads(mounted) + 2
    for call, arguments in (("flush", {}), ("wait", {}), ("watch", {"path": ""})):
        for _ in range(10):
            with mounted.connect() as connection:
                connection.sendall(json.dumps({"call": call, "args": arguments}).encode() + b"\n")
    eventually(lambda: threads(mounted) <= most, lambda: threads(mounted))

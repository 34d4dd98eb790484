"""What a mount reports about itself, through its real process: status, its live view, doctor, the log."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import errno_from, save_file
from tests.support.mounts import Mount, MountedJob
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

from jobfs import control
from jobfs.emulator import Server

#: Fields of a status that change from look to look.
PASSING = {"server", "snapshot_age", "listing_seconds", "problems"}


def read_status(mounted: MountedJob, *arguments: str) -> tuple[int, Any]:
    done = mounted.jobfs("status", *arguments, "--json", mounted.path)
    (status,) = json.loads(done.stdout)["mounts"]
    return done.returncode, status


def lasting(status: dict[str, Any]) -> dict[str, Any]:
    status["job"].pop("age")
    return {name: value for name, value in status.items() if name not in PASSING}


def test_status_is_correct_at_once_and_the_same_in_every_report(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.21, 6.6: `jobfs status`, and `.jobfs/status.json`."""
    server.store.seed({"a": "1", "dir/b": "2"}, age=60)
    code, status = read_status(mounted)
    assert (code, status["schema"], status["items"], status["problems"]) == (0, 5, 3, [])
    assert (status["directory"], status["job"]["ended"]) == (str(mounted.path), False)
    assert (status["job_id"], status["job"]["status"]) == (server.job, "processing")
    assert status["server"]["answering"] is True
    for name in ("unsent", "failed", "conflicts", "hostile", "shadowed"):
        assert status[name] == []
    assert lasting(status) == lasting(json.loads((mounted.path / ".jobfs/status.json").read_bytes()))
    assert Path(status["log"]).read_text() == mounted.log


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_printed_command_of_a_conflict_executes_no_part_of_a_name(
    server: Server, mounted: MountedJob, tmp_path: Path, shell: str
) -> None:
    """vfs/semantics.md 6.16: as it is printed for a person, on one line."""
    named = ["-", "$(touch RAN)", "'; touch RAN; '", "\\'\";touch RAN;#", "new\nline", "\x1b[2J"]
    for name in named:
        server.store.seed({f"{name}/n.md": "one\n", f"{name}/n.conflict-20260101T000000Z.md": "two\n"})
    out = mounted.jobfs("status", mounted.path).stdout
    commands = [line.strip() for line in out.splitlines() if line.startswith("    diff -u ")]
    assert len(commands) == len(named), out
    for command in commands:
        done = subprocess.run(
            [shell, "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=20
        )
        unknown = shell == "fish" and "$'" in command
        assert unknown or done.stdout.endswith("-one\n+two\n"), (command, done.stderr)
    assert not list(tmp_path.glob("RAN"))


def test_a_conflict_has_a_compare_command_while_its_file_exists(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 6: the command that is shown works; where the file is gone no command is shown."""
    server.store.seed({"dir/it's a note.md": "old\n"}, age=60)
    file = mounted.path / "dir/it's a note.md"
    with file.open("r+b") as opened:
        opened.write(b"new\n")
        server.store.write("dir/it's a note.md", "the job's\n")
    mounted.wait_until_settled()
    (conflict,) = mounted.status()["conflicts"]
    done = subprocess.run(["sh", "-c", conflict["diff"]], capture_output=True, text=True, timeout=20)
    assert done.stdout.endswith("-new\n+the job's\n")
    words = mounted.jobfs("status", mounted.path)
    assert (words.returncode, words.stderr, "\x1b" in words.stdout) == (1, "", False)
    whose = f"  yours: dir/it's a note.md; the job's: {conflict['path']}\n"
    for text in (conflict["diff"], "! 1 conflict", whose):
        assert text in words.stdout
    file.rename(mounted.path / "mine.md")
    assert mounted.status()["conflicts"][0]["diff"] is None
    assert (
        "  dir/it's a note.md is gone; the job's: dir/it's a note.conflict-"
        in mounted.jobfs("status", mounted.path).stdout
    )
    (mounted.path / conflict["path"]).unlink()
    assert mounted.status()["conflicts"] == []


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


def test_an_interrupted_flush_leaves_no_thread(server: Server, mount: Mount) -> None:
    """vfs/semantics.md 6, bounds: by a client that is gone."""
    mounted = mount(timeout=60)
    assert os.listdir(mounted.path) == []
    server.faults.set_rate("unavailable", 1.0, on="change")
    (mounted.path / "unsent.txt").write_bytes(b"kept")
    eventually(lambda: mounted.status()["unsent"][0]["attempts"] >= 1)
    # Threads that other parts start once: a timer, a thread of a pool.
    most = threads(mounted) + 2
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as connection:
            (place,) = (mounted.state / server.job).glob(f"*/{control.SOCKET}")
            with control._short_address(place.parent) as address:
                connection.connect(address)
            connection.sendall(b'{"call": "flush"}\n')
    eventually(lambda: threads(mounted) <= most, lambda: threads(mounted))


def test_a_failed_file_counts_as_unsent_in_each_report(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4, Nothing is forgotten: one number, in the status, in `.jobfs/pending`, of umount, and after it."""
    server.store.seed({"old": "old"}, age=60)
    server.faults.set_rate("error", 1.0, on="create", status=413, reason="Too large")
    errno_from(save_file, mounted.path / "big", b"refused")
    eventually(lambda: mounted.status()["failed"])
    server.faults.clear()
    server.faults.set_rate("unavailable", 1.0, on="change")
    (mounted.path / "waits").write_bytes(b"unsent")
    code, status = read_status(mounted)
    assert (code, [entry["path"] for entry in status["failed"]]) == (1, ["big"])
    assert sorted(entry["path"] for entry in status["unsent"]) == ["big", "waits"]
    assert "\nunsent    2 files, 13B" in mounted.jobfs("status", mounted.path).stdout
    assert len((mounted.path / ".jobfs/pending").read_text().splitlines()) == 2
    done = mounted.jobfs("umount", "--timeout", "0", mounted.path)
    (said,) = re.findall("^jobfs: (2 unsent: kept for the next mount of this job: .*)$", done.stderr, re.M)
    refused = "big (refused by the server: run jobfs retry, or jobfs discard)"
    assert (done.returncode, refused in said, "waits" in said) == (1, True, True)
    after = mounted.jobfs("status", "--state-dir", mounted.state)
    assert (after.returncode, after.stdout) == (2, "")
    assert f"the mount that ended at {mounted.path} has left 2 unsent: kept for the" in after.stderr
    assert after.stderr.endswith(
        f": mount the job again, or run jobfs recover {server.job} --base-url {server.url}\n"
    )

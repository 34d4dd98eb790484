"""`jobfs doctor JOB --try` as a process of its own: on a terminal, beside a mount, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, environment
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server

SEED = {"notes/a.md": "hello", "try": "a file of that name"}


def command(server: Server, home: Path, *more: str) -> list[str]:
    places = ["--state-dir", str(home / "state"), "--cache-dir", str(home / "cache")]
    return ["doctor", server.job, "--try", "--base-url", server.url, *places, *more]


def started(server: Server, home: Path, *more: str) -> subprocess.Popen[str]:
    """A try that is under way, in a process group of its own."""
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "jobfs", *command(server, home, *more)],
        env={**environment(home, server.key), "TMPDIR": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home,
        start_new_session=True,
    )


@pytest.mark.needs_fuse
def test_a_trial_on_a_terminal_asks_before_it_writes(server: Server, tmp_path: Path) -> None:
    with on_terminal(tmp_path, *command(server, tmp_path), key=server.key) as terminal:
        terminal.shows("[y/N]")
        terminal.lines("n")
        assert terminal.wait_for_exit_code() == 1
        assert "nothing was tested" in terminal.screen()
    assert server.log.changes() == []


def test_a_trial_is_invisible_to_a_mount_of_its_job(
    server: Server, mounted: MountedJob, tmp_path: Path
) -> None:
    server.set(
        create_existing="overwrite", path_style="slash", type_spelling="short", input_spelling="own", find="prefix",
        create_encodings="json", sizes="omitted", ranges=False, list_order="unstable", move_touches="tree", latency=5,
    )  # fmt: skip
    server.store.seed(SEED)
    before = server.store.tree()
    eventually(lambda: sorted(os.listdir(mounted.path)) == ["notes", "try"])
    home = tmp_path / "try"
    process = started(server, home, "--yes", "--verbose")
    seen = set()
    while process.poll() is None:
        seen |= set(os.listdir(mounted.path))
    out, _ = process.communicate()
    assert process.returncode == 0, out
    assert seen == {"notes", "try"}
    assert server.store.tree() == before
    status = mounted.status()
    assert (status["conflicts"], status["foreign_hidden"], status["unsent"]) == ([], [], [])

    assert "ok      cleanup: everything that was created is deleted" in out
    assert os.listdir(home / "state" / "servers")
    assert [name for name in os.listdir(home) if name.startswith("jobfs-try-")] == []


def test_an_interrupted_trial_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.store.seed(SEED)
    before = server.store.tree()
    server.set(latency=10)
    home = tmp_path / "try"
    process = started(server, home, "--yes")
    eventually(lambda: any(".jobfs-" in path for path in server.store.tree()))
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out
    assert "jobfs: deleting everything that was created" in out
    assert server.store.tree() == before

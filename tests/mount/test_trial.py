"""`jobfs doctor JOB --try` as a process of its own: on a terminal, beside a mount, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.mounts import Mount, MountedJob
from tests.support.terminal import on_terminal
from tests.support.waiting import eventually

from jobfs.emulator import Server

SEED = {"notes/a.md": "hello", "try": "a file of that name"}


def command(job: MountedJob, *more: str) -> list[str | Path]:
    places = ("--state-dir", job.home / "try/state", "--cache-dir", job.home / "try/cache")
    return ["doctor", job.server.job, "--try", "--base-url", job.server.url, *places, *more]


@contextmanager
def trying(job: MountedJob, *more: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Run a trial beside the block; yield its process, and the file with what it prints."""
    out = job.home / "out"
    job.variables["TMPDIR"] = str(job.home)
    with out.open("w") as file, job.running(*command(job, "--yes", *more), out=file) as process:
        yield process, out


@pytest.mark.needs_program("tmux")
def test_a_trial_on_a_terminal_asks_before_it_writes(server: Server, mount: Mount) -> None:
    job = mount(start=False)
    with on_terminal(job.home, *command(job), key=server.key) as terminal:
        terminal.shows("[y/N]")
        terminal.lines("n")
        assert terminal.wait_for_exit_code() == 1
        assert "nothing was tested" in terminal.screen()
    assert server.log.changes() == []


def test_a_trial_is_invisible_to_a_mount_of_its_job(server: Server, mounted: MountedJob) -> None:
    server.set(
        create_existing="overwrite", path_style="slash", type_spelling="short", input_spelling="own", find="prefix",
        create_encodings="json", sizes="omitted", ranges=False, list_order="unstable", move_touches="tree", latency=5,
    )  # fmt: skip
    server.store.seed(SEED)
    before = server.store.tree()
    eventually(lambda: sorted(os.listdir(mounted.path)) == ["notes", "try"])
    seen = set()
    with trying(mounted, "--verbose") as (process, out):
        while process.poll() is None:
            seen |= set(os.listdir(mounted.path))
    assert process.returncode == 0, out.read_text()
    assert seen == {"notes", "try"}
    assert server.store.tree() == before
    status = mounted.status()
    assert (status["conflicts"], status["foreign_hidden"], status["unsent"]) == ([], [], [])
    assert "ok      cleanup: everything that was created is deleted" in out.read_text()
    assert os.listdir(mounted.home / "try/state/servers")
    assert [name for name in os.listdir(mounted.home) if name.startswith("jobfs-try-")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_trial_leaves_nothing(server: Server, mount: Mount, number: signal.Signals) -> None:
    server.store.seed(SEED)
    before = server.store.tree()
    server.set(latency=10)
    with trying(mount(start=False)) as (process, out):
        eventually(lambda: any(".jobfs-" in path for path in server.store.tree()))
        process.send_signal(number)
        assert process.wait(60) == 128 + number, out.read_text()
    assert "jobfs: deleting everything that was created" in out.read_text()
    assert server.store.tree() == before

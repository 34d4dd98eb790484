"""What short commands say, on a terminal as in a pipe (vfs/semantics.md 6); of the others that is seen where they are tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.support.files import errno_from, saved
from tests.support.mounts import MountedJob, jobfs
from tests.support.ptys import on_terminal
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
        (["systemd-unit", "job", "/mnt/job"], 2, "jobfs: 'job' is not a job id"),
        (["retry", "/"], 2, "jobfs: no job is mounted at /\n"),
        (["set", "/"], 2, "jobfs: nothing to change: give --permission or --lifecycle\n"),
    ],
)
def test_it_is_the_same_on_a_terminal(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    done = jobfs(*words, home=tmp_path)
    assert said in done.stdout + done.stderr
    with on_terminal(tmp_path, None, *words) as terminal:
        assert (terminal.ended(), done.returncode) == (code, code)
        assert terminal.screen.replace("\r\n", "\n") == done.stdout + done.stderr


def test_a_save_that_failed_is_tried_again_and_given_up(server: Server, mounted: MountedJob) -> None:
    """vfs/semantics.md 4.12: `jobfs retry` and `jobfs discard` resolve it."""
    file = mounted.path / "file"
    server.faults.rate("error", 1.0, on="create", status=413, reason="Too large")
    assert errno_from(saved, file, b"content")
    eventually(lambda: mounted.status()["failed"])
    with on_terminal(mounted.home, None, "retry", file) as terminal:
        assert terminal.ended() == 0
        assert terminal.screen == "trying again: file\r\n"
    eventually(lambda: mounted.status()["failed"])
    with on_terminal(mounted.home, None, "discard", file) as terminal:
        terminal.shows(r"Give up what was written to file.*\? \[y/N\]: ")
        terminal.answer("y")
        assert terminal.ended() == 0
        assert "\r\ngiven up: file (a copy is " in terminal.screen

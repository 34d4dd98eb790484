"""Foreground and background: what the user is told, and by whom."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli.front import Terminal

#: What a mount does, by name; run in a process of its own, which forks.
BODIES = {
    "ready": """
        front.say("a warning")
        front.keep_log(log)
        front.ready("mounted here")
        front.say("said later")
        print("printed later", flush=True)
        return 0
    """,
    "usage": "raise UsageError('give another')",
    "failure": "raise FsError(5, 'it broke')",
    "bug": "raise RuntimeError('a bug')",
    "death": "os._exit(3)",
    "late": """
        front.keep_log(log)
        front.ready("mounted here")
        raise FsError(5, 'broke later')
    """,
    "facts": """
        front.ready(json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), os.readlink("/proc/self/fd/0")]))
        return 0
    """,
}

SCRIPT = """
import json, os, sys
from pathlib import Path
from jobfs.cli.front import in_background
from jobfs.errors import FsError, JobfsError, UsageError

log = Path(sys.argv[1])

def serve(front):
    {body}

try:
    sys.exit(in_background(serve))
except JobfsError as error:
    print(f"jobfs: {{error}}", file=sys.stderr)
    sys.exit(1)
"""


@pytest.fixture
def background(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    def background(name: str) -> subprocess.CompletedProcess[str]:
        body = "\n    ".join(line.strip() for line in BODIES[name].strip().splitlines())
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.format(body=body), str(tmp_path / "log")],
            capture_output=True,
            text=True,
            timeout=30,
        )

    return background


def test_the_terminal_gets_sentences_on_stderr_and_one_line_on_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    front = Terminal()
    front.say("a warning")
    front.keep_log(Path("/no/such/log"))
    front.ready("mounted here")
    assert capfd.readouterr() == ("mounted here\n", "jobfs: a warning\n")


def test_the_command_returns_once_the_mount_answers(
    background: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """semantics 6: a daemon that returns once the mount answers."""
    done = background("ready")
    ready = f"mounted here; its log is {tmp_path / 'log'}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, ready, "jobfs: a warning\n")
    assert (tmp_path / "log").read_text().splitlines() == ["said later", "printed later"]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("usage", 2, "jobfs: give another\n"),
        ("failure", 1, "jobfs: it broke\n"),
        ("bug", 70, "jobfs: unexpected RuntimeError: a bug\n"),
        ("death", 1, "jobfs: the mount ended before it answered: try --foreground to see why\n"),
    ],
)
def test_a_mount_that_fails_is_told_by_the_command(
    background: Callable[[str], subprocess.CompletedProcess[str]], name: str, code: int, said: str
) -> None:
    done = background(name)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_what_fails_later_is_in_the_log(
    background: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    assert background("late").returncode == 0
    assert (tmp_path / "log").read_text() == "broke later\n"


def test_the_mount_holds_on_to_nothing_of_the_command(
    background: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    assert background("facts").stdout == f'[true, "/", "{os.devnull}"]\n'

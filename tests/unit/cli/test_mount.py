"""`jobfs mount`: in which order things happen, who is told what, and that a failure leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs import mount as mounting
from jobfs.cli import logs, preflight
from jobfs.cli import mount as command
from jobfs.errors import UsageError
from jobfs.state import directory as slot

from .conftest import JOB, Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine and a server that have no objection, and a mount that ends at once with 0."""
    events: list[Any] = []

    def check_machine(settings: Any, job: str, directory: str, say: Any) -> str:
        events.append("machine")
        return directory

    def ask_server(*args: Any) -> int:
        events.append("server")
        return 3

    def run(settings: Any, place: Any, build: Any, say: Any, on_mounted: Any) -> int:
        events.append(("run", settings, place.record.directory, slot.in_use(slot.look(place.path))))
        on_mounted()
        return 0

    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    monkeypatch.setattr("os.umask", lambda mask: events.append(f"umask {mask:o}"))
    monkeypatch.setattr(preflight, "check_machine", check_machine)
    monkeypatch.setattr(preflight, "ask_server", ask_server)
    monkeypatch.setattr(logs, "set_up", lambda *args: events.append("logs"))
    monkeypatch.setattr(mounting, "run", run)
    return events


def test_everything_is_checked_before_anything_is_mounted(
    run: Run, events: list[Any], place: Path, state: Path
) -> None:
    done = run("mount", JOB, place, "-f", "--ttl", "2", "-o", "ro,timeout=7")
    assert done == Outcome(0, f"mounted {JOB} at {place}\n", "")
    assert events[:-1] == ["machine", "umask 77", "logs", "server"]
    name, settings, directory, held = events[-1]
    assert (name, directory, held) == ("run", str(place), True)
    assert (settings.ttl, settings.timeout, settings.read_only) == (2.0, 7.0, True)
    assert slot.running(state) == []


def test_a_directory_made_for_a_mount_is_removed_if_the_mount_fails(
    run: Run, events: list[Any], place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = place / "made"
    monkeypatch.setattr(mounting, "run", lambda *args: 1)
    assert run("mount", JOB, made, "-f").code == 1, "something is left to be sent"
    made.rmdir()

    def fail(*args: Any) -> int:
        raise UsageError("could not mount")

    monkeypatch.setattr(mounting, "run", fail)
    assert run("mount", JOB, made, "-f").code == 2
    assert not made.exists()
    monkeypatch.setattr(command, "in_background", lambda serve: 2)
    assert run("mount", JOB, made).code == 2
    assert not made.exists()
    monkeypatch.setattr(preflight, "ask_server", fail)
    assert run("mount", "k" * 24, made, "-f") == Outcome(2, "", "jobfs: could not mount\n")
    assert not made.exists()
    assert not (state / ("k" * 24)).exists()


#: What a mount does, by name; run in a process of its own, which forks.
BODIES = {
    "ready": """
        logs.say("a warning")
        ready("mounted here", log)
        logs.say("said later")
        print("printed later", flush=True)
        return 0
    """,
    "usage": "raise UsageError('give another')",
    "failure": "raise FsError(5, 'it broke')",
    "bug": "raise RuntimeError('a bug')",
    "death": "os._exit(3)",
    "late": """
        logs.set_up("info", lambda: "sk-secret")
        ready("mounted here", log)
        raise FsError(5, 'broke later')
    """,
    "facts": """
        ready(json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), os.readlink("/proc/self/fd/0")]), log)
        return 0
    """,
}

SCRIPT = """
import json, os, sys
from pathlib import Path
from jobfs.cli import logs
from jobfs.cli.mount import in_background
from jobfs.errors import FsError, JobfsError, UsageError

log = Path(sys.argv[1])
os.umask(0o077)

def serve(ready):
    {body}

try:
    sys.exit(in_background(serve))
except JobfsError as error:
    print(f"jobfs: {{error}}", file=sys.stderr)
    sys.exit(1)
"""


Background = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def background(tmp_path: Path) -> Background:
    def background(name: str) -> subprocess.CompletedProcess[str]:
        body = "\n    ".join(line.strip() for line in BODIES[name].strip().splitlines())
        command = [sys.executable, "-c", SCRIPT.format(body=body), str(tmp_path / "log")]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    return background


@pytest.mark.parametrize(
    ("name", "code", "out", "err"),
    [
        ("ready", 0, "mounted here; its log is LOG\n", "jobfs: a warning\n"),
        ("facts", 0, f'[true, "/", "{os.devnull}"]; its log is LOG\n', ""),
        ("usage", 2, "", "jobfs: give another\n"),
        ("failure", 1, "", "jobfs: it broke\n"),
        ("bug", 70, "", "jobfs: unexpected RuntimeError: a bug\n"),
        ("death", 1, "", "jobfs: the mount ended before it answered: try --foreground to see why\n"),
    ],
)
def test_the_command_returns_once_the_mount_answers_or_fails(
    background: Background, tmp_path: Path, name: str, code: int, out: str, err: str
) -> None:
    done = background(name)
    log = tmp_path / "log"
    assert (done.returncode, done.stdout.replace(str(log), "LOG"), done.stderr) == (code, out, err)
    if name == "ready":
        assert log.read_text().splitlines() == ["jobfs: said later", "printed later"]
        assert log.stat().st_mode & 0o777 == 0o600


def test_a_failure_after_the_start_is_in_the_log(background: Background, tmp_path: Path) -> None:
    assert background("late").returncode == 0
    eventually(lambda: (tmp_path / "log").read_text().endswith(" jobfs: broke later\n"))

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


def test_a_server_that_refuses_leaves_no_state(
    run: Run, events: list[Any], place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise UsageError("refused")

    monkeypatch.setattr(preflight, "ask_server", refuse)
    assert run("mount", JOB, place, "-f") == Outcome(2, "", "jobfs: refused\n")
    assert not (state / JOB).exists()


def test_warnings_are_said_before_it_is_mounted(
    run: Run, events: list[Any], place: Path, state: Path
) -> None:
    other = slot.acquire(state, JOB, str(place), "https://other.example.com")
    (other.path / "journal.db").touch()
    other.close()
    done = run("mount", JOB, place, "-f")
    assert done.code == 0
    assert str(other.path) in done.err


def test_a_directory_that_was_made_goes_if_the_mount_fails(
    run: Run, events: list[Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = place / "made"
    assert run("mount", JOB, made, "-f").code == 0
    assert made.is_dir()
    made.rmdir()

    def fail(*args: Any) -> int:
        raise UsageError("could not mount")

    monkeypatch.setattr(command, "in_background", lambda serve: 2)
    assert run("mount", JOB, made).code == 2
    assert not made.exists()
    monkeypatch.setattr(mounting, "run", fail)
    assert run("mount", JOB, made, "-f").code == 2
    assert not made.exists()
    monkeypatch.setattr(mounting, "run", lambda *args: 1)
    assert run("mount", JOB, made, "-f").code == 1, "something is left to be sent"
    assert made.is_dir()


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


def test_the_command_returns_once_the_mount_answers(
    background: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = background("ready")
    ready = f"mounted here; its log is {tmp_path / 'log'}\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, ready, "jobfs: a warning\n")
    assert (tmp_path / "log").read_text().splitlines() == ["jobfs: said later", "printed later"]
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
    eventually(lambda: (tmp_path / "log").read_text().endswith(" jobfs: broke later\n"))


def test_the_mount_holds_on_to_nothing_of_the_command(
    background: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    assert background("facts").stdout.startswith(f'[true, "/", "{os.devnull}"]; its log is ')

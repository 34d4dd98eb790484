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
from jobfs.state import directory as directories

from .world import JOB, Outcome, Run


class Events(list[Any]):
    """What happened, in order. `code`: the exit code of the mount, which ends at once; `objection`: the server's, if any."""

    code = 0
    objection: UsageError | None = None

    def items_of_the_job(self) -> int:
        if self.objection is not None:
            raise self.objection
        return 3


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """A machine that has no objection, and a server and a mount that a test can make fail."""
    events = Events()

    def said(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            events.append(name)
            return answer(*args)

        return call

    def run(settings: Any, place: Any, build: Any, say: Any, on_mounted: Any) -> int:
        events.append(
            (
                "run",
                settings,
                place.record.directory,
                directories.is_in_use(directories.inspect_directory(place.path)),
            )
        )
        if not events.code:
            on_mounted()
        return events.code

    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    monkeypatch.setattr("os.umask", lambda mask: events.append(f"umask {mask:o}"))
    monkeypatch.setattr(preflight, "check_machine", said("machine", lambda *args: args[2]))
    monkeypatch.setattr(
        preflight, "check_server_and_count_items", said("server", lambda *args: events.items_of_the_job())
    )
    monkeypatch.setattr(logs, "set_up_logging", lambda *args: events.append("logs"))
    monkeypatch.setattr(mounting, "run_mount", run)
    return events


def test_everything_is_checked_before_mounting(run: Run, events: Events, place: Path, state: Path) -> None:
    done = run("mount", JOB, place, "-f", "--ttl", "2", "-o", "ro,timeout=7")
    assert (done.code, done.out) == (0, f"mounted {JOB} at {place}\n")
    assert events[:-1] == ["machine", "umask 77", "logs", "server"]
    name, settings, directory, held = events[-1]
    assert (name, directory, held) == ("run", str(place), True)
    assert (settings.ttl, settings.timeout, settings.read_only) == (2.0, 7.0, True)
    assert directories.find_running(state) == []


def test_a_directory_made_for_a_mount_is_removed_if_the_mount_fails(
    run: Run, events: Events, place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = place / "made"
    events.code = 1
    assert run("mount", JOB, made, "-f").code == 1, "something is left to be sent"
    made.rmdir()
    monkeypatch.setattr(command, "run_in_background", lambda serve: 2)
    assert run("mount", JOB, made).code == 2
    assert not made.exists()

    events.objection = UsageError("could not mount")
    assert run("mount", "k" * 24, made, "-f") == Outcome(2, "", "jobfs: could not mount\n")
    assert not made.exists()
    assert not (state / ("k" * 24)).exists()


SCRIPT = """
import json, os, sys
from pathlib import Path
from jobfs.cli import logs
from jobfs.cli.mount import run_in_background
from jobfs.errors import FsError, JobfsError, UsageError

log = Path(sys.argv[1])
os.umask(0o077)

def serve(ready):
    {body}

try:
    sys.exit(run_in_background(serve))
except JobfsError as error:
    print(f"jobfs: {{error}}", file=sys.stderr)
    sys.exit(1)
"""


def background(log: Path, body: str) -> tuple[int, str, str]:
    """What a process that forks says where its mount does this."""
    command = [sys.executable, "-c", SCRIPT.format(body=body.replace("\n", "\n    ")), str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.replace(str(log), "LOG"), done.stderr


@pytest.mark.parametrize(("body", "code", "err"), [
    ("raise UsageError('give another')", 2, "jobfs: give another\n"),
    ("raise FsError(5, 'it broke')", 1, "jobfs: it broke\n"),
    ("raise RuntimeError('a bug')", 70, "jobfs: unexpected RuntimeError: a bug\n"),
    ("os._exit(3)", 1, "jobfs: the mount ended before it answered: try --foreground to see why\n"),
])  # fmt: skip
def test_a_mount_that_fails_before_it_answers_is_reported(
    tmp_path: Path, body: str, code: int, err: str
) -> None:
    assert background(tmp_path / "log", body) == (code, "", err)


def test_the_command_returns_once_the_mount_answers(tmp_path: Path) -> None:
    body = """logs.warn_user("a warning")
ready(json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), os.readlink("/proc/self/fd/0")]), log)
logs.warn_user("said later")
print("printed later", flush=True)
logs.set_up_logging("info", lambda: "sk-secret")
raise FsError(5, "broke later")"""
    out = f'[true, "/", "{os.devnull}"]; its log is LOG\n'
    log = tmp_path / "log"
    assert background(log, body) == (0, out, "jobfs: a warning\n")
    eventually(lambda: log.read_text().endswith(" jobfs: broke later\n"))
    assert log.read_text().splitlines()[:2] == ["jobfs: said later", "printed later"]
    assert log.stat().st_mode & 0o777 == 0o600

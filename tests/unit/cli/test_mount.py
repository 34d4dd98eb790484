"""`jobfs mount`: in which order things happen, who is told what, and that a failure leaves nothing behind."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs import mount as mounting
from jobfs.cli import mount as command
from jobfs.errors import UsageError
from jobfs.state import directory as directories

from .world import JOB, JobCheck, Run


class Events(list[Any]):
    """What happened, in order. `code`: the exit code of the mount, which ends at once."""

    code = 0


@pytest.fixture
def events(
    monkeypatch: pytest.MonkeyPatch, able: None, own_logging: None, job_check: JobCheck
) -> Iterator[Events]:
    """A machine that has no objection, a server that is asked with a key in its log, and a mount that a test can make fail."""
    events = Events()

    def ask() -> None:
        os.umask(umask := os.umask(0))
        events.append(("server", umask))
        logging.getLogger("httpx").warning("asks with sk-secret")

    def run(settings: Any, place: Any, build: Any, say: Any, on_mounted: Any) -> int:
        held = directories.is_in_use(directories.inspect_directory(place.path))
        events.append(("run", settings, place.record, held))
        if not events.code:
            on_mounted()
        return events.code

    job_check.when_asked = ask
    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    monkeypatch.setattr(mounting, "run_mount", run)
    before = os.umask(0o022)
    yield events
    os.umask(before)


def test_everything_is_checked_before_mounting(run: Run, events: Events, place: Path, state: Path) -> None:
    key = place.with_name("key")
    key.write_text("sk-secret")
    key.chmod(0o600)
    command = ("mount", JOB, place, "-f", "--ttl", "2", "-o", "ro,timeout=7", "--api-key-file", key)
    (place / "mine").touch()
    assert (run(*command).code, events) == (2, []), "the machine is checked first"
    (place / "mine").unlink()
    done = run(*command)
    assert (done.code, done.out) == (0, f"mounted {JOB} at {place}\n")
    assert done.err.endswith(" WARNING httpx: asks with ***\n")
    asked, (name, settings, record, held) = events
    assert asked == ("server", 0o077)
    assert (name, held) == ("run", True)
    assert (record.directory, record.api_key_file) == (str(place), str(key)), "what recovers it later"
    assert (settings.ttl, settings.timeout, settings.read_only) == (2.0, 7.0, True)
    assert directories.find_running(state) == []


def test_a_directory_made_for_a_mount_is_removed_if_the_mount_fails(
    run: Run, events: Events, job_check: JobCheck, place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = place / "made"
    events.code = 1
    assert run("mount", JOB, made, "-f").code == 1, "something is left to be sent"
    made.rmdir()
    monkeypatch.setattr(command, "run_in_background", lambda serve: 2)
    assert run("mount", JOB, made).code == 2
    assert not made.exists()

    job_check.objection = UsageError("can't use the server")
    done = run("mount", "k" * 24, made, "-f")
    assert (done.code, done.out, done.err.splitlines()[-1]) == (2, "", "jobfs: can't use the server")
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
caller = os.open("/", os.O_PATH)

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
kept = os.path.exists(f"/proc/self/fd/{caller}")
ready(json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), os.readlink("/proc/self/fd/0"), kept]), log)
logs.warn_user("said later")
print("printed later", flush=True)
logs.set_up_logging("info", lambda: "sk-secret")
raise FsError(5, "broke later")"""
    out = f'[true, "/", "{os.devnull}", false]; its log is LOG\n'
    log = tmp_path / "log"
    assert background(log, body) == (0, out, "jobfs: a warning\n")
    eventually(lambda: log.read_text().endswith(" jobfs: broke later\n"))
    assert log.read_text().splitlines()[:2] == ["jobfs: said later", "printed later"]
    assert log.stat().st_mode & 0o777 == 0o600

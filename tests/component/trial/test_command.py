"""`jobfs doctor JOB --try`: what it needs to be told, what it prints, and its exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.__main__ import main
from jobfs.cli import preflight
from jobfs.emulator import Server
from jobfs.trial import questions
from jobfs.trial.questions import Trial

#: The exit code, and what is printed to stdout and stderr.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs `jobfs doctor ARGUMENTS` in this process, on a machine where FUSE is."""
    for check in ("check_device", "check_library", "check_helper"):
        monkeypatch.setattr(preflight, check, lambda: None)
    monkeypatch.setattr(questions, "_TICK", 0.01)
    for name, value in (
        ("PERSTACK_API_KEY", server.key),
        ("JOBFS_BASE_URL", server.url),
        ("HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["jobfs", "doctor", *arguments])
        capfd.readouterr()
        return main(), *capfd.readouterr()

    return run


@pytest.mark.parametrize(("arguments", "told"), [
    (("j" * 24, "--try"), "--yes"),
    (("--try", "--yes"), "the id of a job"),
    (("j" * 24, "--yes"), "belongs to --try"),
])  # fmt: skip
def test_arguments_that_do_not_go_together_are_one_sentence_and_no_request(
    run: Run, server: Server, arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert server.log.entries() == []


def test_a_try_of_a_healthy_server_warns_of_its_costs_only(run: Run, server: Server) -> None:
    code, out, err = run(server.job, "--try", "--yes")
    assert (code, err.count("\n")) == (0, 1), err
    cost, well, end = out.splitlines()
    assert cost.startswith("WARN    Does a file move to a free path? yes, and it changes its updatedAt:")
    assert well.endswith(" checks of this machine, the account and the server (--verbose shows them)")
    assert end == "a mount of this job works: see WARN for what it costs"
    every = run(server.job, "--try", "--yes", "--verbose")[1]
    assert every.count("\nok ") + every.startswith("ok ") == int(well.split()[1])
    assert server.key not in out + every
    assert server.store.tree() == {}


def test_a_try_removes_all_its_items_whatever_happens(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trial: Trial, content: bytes) -> tuple[Path, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trial, "source", full)
    monkeypatch.setattr("jobfs.__main__.os.dup2", lambda *handles: None)
    assert run(server.job, "--try", "--yes")[0] == 70
    assert [entry.operation for entry in server.log.changes()] == ["create", "delete"]
    assert server.store.tree() == {}

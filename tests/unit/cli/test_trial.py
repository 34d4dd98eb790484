"""`jobfs doctor JOB --try`: what it needs to be told, what it prints, and its exit code."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli import preflight
from jobfs.emulator import Server
from jobfs.errors import UsageError
from jobfs.trial.questions import Trial

from .conftest import JOB, Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def server(started: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server, and a machine where FUSE is."""
    started.reset()
    for check in ("check_device", "check_library", "check_helper"):
        monkeypatch.setattr(preflight, check, lambda: None)
    monkeypatch.setattr("jobfs.trial.questions._TICK", 0.01)
    monkeypatch.setenv("PERSTACK_API_KEY", started.key)
    monkeypatch.setenv("JOBFS_BASE_URL", started.url)
    return started


@pytest.mark.parametrize(("arguments", "told"), [
    ((JOB, "--try"), "--yes"),
    (("--try", "--yes"), "the id of a job"),
    ((JOB, "--yes"), "belong to --try"),
    ((JOB, "--report", "report.json"), "belong to --try"),
    ((JOB, "--try", "--yes", "--report", "no-such-directory/report.json"), "no-such-directory/report.json"),
])  # fmt: skip
def test_arguments_that_do_not_go_together_are_one_sentence_and_no_request(
    run: Run,
    server: Server,
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.json").write_text("an earlier report")
    done = run("doctor", *arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert done.err.count("\n") == 1
    assert server.log.entries() == []
    assert (tmp_path / "report.json").read_text() == "an earlier report"


def test_a_try_of_a_healthy_server_warns_of_its_costs_only(run: Run, server: Server, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run("doctor", server.job, "--try", "--yes", "--report", report)
    assert (done.code, done.err.count("\n")) == (0, 1), done
    cost, well, end = done.out.splitlines()
    assert cost.startswith("WARN    Does a file move to a free path? yes, and it changes its updatedAt:")
    assert well.endswith(" checks of this machine, the account and the server (--verbose shows them)")
    assert end == "a mount of this job works: see WARN for what it costs"
    number = int(well.split()[1])
    every = run("doctor", server.job, "--try", "--yes", "--verbose").out
    assert every.count("\nok ") + every.startswith("ok ") == number
    assert server.key not in done.out + report.read_text()
    assert json.loads(report.read_text())["ended"] == "asked to the end"
    assert server.store.tree() == {}


def test_a_machine_without_fuse_is_told_by_the_last_line_too(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise UsageError("/dev/fuse is missing: modprobe fuse")

    monkeypatch.setattr(preflight, "check_device", missing)
    done = run("doctor", server.job, "--try", "--yes")
    assert done.code == 1
    assert done.out.endswith("\n1 of these would keep a mount from working\n")


def test_a_try_removes_all_its_items_whatever_happens(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trial: Trial, content: bytes) -> tuple[Path, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trial, "source", full)
    monkeypatch.setattr("jobfs.__main__.os.dup2", lambda *handles: None)
    assert run("doctor", server.job, "--try", "--yes").code == 70
    assert [entry.operation for entry in server.log.changes()] == ["create", "delete"]
    assert server.store.tree() == {}

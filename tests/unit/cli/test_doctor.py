"""`jobfs doctor`: a line for each check, a remedy for each failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli import preflight
from jobfs.errors import UsageError
from jobfs.state import directory as slot

from .conftest import JOB, URL, Outcome

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for check in ("check_device", "check_library", "check_helper"):
        monkeypatch.setattr(preflight, check, lambda: None)
    monkeypatch.setattr(preflight, "check_server", lambda settings, job, key: None)
    monkeypatch.setenv("PERSTACK_API_KEY", "secret-key")


def refuse(sentence: str) -> Callable[..., None]:
    def check(*_: object) -> None:
        raise UsageError(sentence)

    return check


def test_a_machine_that_is_well_is_0(run: Run, tmp_path: Path) -> None:
    """semantics 6.13: `jobfs doctor`: checks the machine and the account."""
    done = run("doctor", JOB, "--state-dir", str(tmp_path / "s"), "--cache-dir", str(tmp_path / "c"))
    assert (done.code, "FAILED" in done.out) == (0, False), done.out
    for word in ("/dev/fuse", "libfuse", "cache directory", "state directory", "API key", JOB):
        assert word in done.out
    assert "secret-key" not in done.out


@pytest.mark.parametrize("check", ["check_device", "check_library", "check_server"])
def test_each_failure_has_its_remedy_and_the_others_are_checked_all_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str
) -> None:
    """semantics 6.13: prints a remedy per failure."""
    monkeypatch.setattr(preflight, check, refuse("it is broken: mend it"))
    done = run("doctor", JOB, "--base-url", URL, "--state-dir", str(tmp_path), "--cache-dir", str(tmp_path))
    assert (done.code, done.out.count("FAILED"), done.out.count("it is broken: mend it")) == (1, 1, 1)
    assert "state directory" in done.out


def test_a_key_that_is_missing_is_told(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PERSTACK_API_KEY")
    done = run("doctor", JOB, "--state-dir", str(tmp_path), "--cache-dir", str(tmp_path))
    assert done.code == 1
    assert "PERSTACK_API_KEY" in done.out


def test_work_that_an_ended_mount_left_is_told(run: Run, tmp_path: Path) -> None:
    left = slot.acquire(tmp_path, JOB, "/mnt/a", URL)
    left.journal.touch()
    left.close()
    done = run("doctor", "--state-dir", str(tmp_path), "--cache-dir", str(tmp_path))
    assert done.code == 1
    assert f"jobfs recover {JOB}" in done.out

"""`jobfs systemd-unit`: what systemd reads, and that no key is in it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli import unit

from .conftest import JOB, Outcome

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "bin" / "jobfs"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setattr(unit, "program", lambda: str(path))
    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    return str(path)


def values(text: str) -> dict[str, str]:
    """The unit's settings, by name."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))


def words(line: str) -> list[str]:
    """A command line, as systemd splits it."""
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


def test_a_unit_has_the_given_options_and_those_of_the_environment(
    run: Run, program: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSTACK_BASE_URL", "https://eu.example.com")
    monkeypatch.setenv("JOBFS_SYNC_ON_CLOSE", "no")
    monkeypatch.chdir(tmp_path)
    done = run(
        "systemd-unit", JOB, 'my job/100% "$x"', "-o", "ro,umask=27", "--state-dir", "kept", "--timeout", "7.5",
        "--local-only", "*.o", "--local-only", r"a\b",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    found = values(done.out)
    directory = f'{tmp_path}/my job/100% "$x"'
    start = words(found["ExecStart"])
    assert start[:5] == [program, "mount", JOB, directory, "--foreground"]
    assert set(start[5:]) == {
        "--base-url=https://eu.example.com", "--read-only", "--umask=027", f"--state-dir={tmp_path}/kept",
        "--timeout=7.5", r"--local-only=*.o:a\b",
    }  # fmt: skip
    assert words(found["ExecStop"].removeprefix("-")) == [
        program, "umount", directory, "--timeout", "300", "--state-dir", f"{tmp_path}/kept",
    ]  # fmt: skip
    assert (found["Type"], float(found["TimeoutStopSec"]) > 300 + 2 * 7.5) == ("notify", True)
    assert found["EnvironmentFile"] == f"-{home}/.config/jobfs/environment"
    assert "secret" not in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["short", "/mnt/a"], "not a job id"),
        ([JOB, "/mnt/a\nExecStart=/bin/false"], "can't hold"),
        ([JOB, "/mnt/a", "--base-url", "http://192.0.2.1"], "https"),
    ],
)
def test_arguments_that_can_not_work_are_refused_at_once(run: Run, arguments: list[str], said: str) -> None:
    done = run("systemd-unit", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_accepts_the_unit(run: Run, tmp_path: Path) -> None:
    text = run("systemd-unit", JOB, f'{tmp_path}/my job/100% "$x"', "--local-only", r"a\b;'").out
    (tmp_path / f"jobfs-{JOB}.service").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(tmp_path / f"jobfs-{JOB}.service")],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")

"""Being found by mount(8): what it calls, and what `jobfs install-helper` says where it can't write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobfs.cli import helper
from jobfs.errors import UsageError

from .conftest import JOB, Outcome

Run = Callable[..., Outcome]


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("/sbin/mount.jobfs", [JOB, "/mnt"], ["mount", JOB, "/mnt"]),
        ("mount.jobfs", [JOB, "/mnt", "-sv", "-n", "-o", "rw,user"], ["mount", JOB, "/mnt", "-o", "rw,user"]),
        (
            "mount.fuse.jobfs",
            [JOB, "/mnt", "-o", "ro", "-t", "fuse.jobfs", "-N", "/proc/1/ns"],
            ["mount", JOB, "/mnt", "-o", "ro"],
        ),
        ("mount.fuse.jobfs", [JOB, "/mnt", "-f", "-o", "rw"], None),
        ("mount.fuse.jobfs", ["--version"], ["--version"]),
        ("umount.fuse.jobfs", ["/mnt", "-n", "-v"], ["umount", "--or-plainly", "/mnt"]),
        ("umount.fuse.jobfs", ["/mnt", "-flr"], ["umount", "--or-plainly", "--lazy", "/mnt"]),
        ("/usr/bin/jobfs", ["status", "-f"], ["status", "-f"]),
    ],
)
def test_mount_8_has_options_of_its_own(name: str, arguments: list[str], words: list[str] | None) -> None:
    """mount(8) and umount(8), external helpers."""
    assert helper.words(name, arguments) == words


def test_an_argument_that_mount_8_does_not_give_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--ttl.*-o NAME=VALUE"):
        helper.words("mount.jobfs", [JOB, "/mnt", "--ttl", "3"])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(helper, "_PLACE", tmp_path)
    monkeypatch.setattr(helper, "program", lambda: "/opt/venv/bin/jobfs")
    return tmp_path


def test_a_user_who_is_not_root_is_told_the_command_for_root(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *args: False)
    said = f"jobfs: only root can write in {place}: sudo /opt/venv/bin/jobfs install-helper"
    assert run("install-helper") == Outcome(2, "", f"{said}\n")
    assert run("install-helper", "--remove") == Outcome(2, "", f"{said} --remove\n")


def test_the_program_is_found_outside_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "jobfs"
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.setattr("sys.argv", ["/elsewhere/jobfs/__main__.py"])
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert helper.program() == str(script)
    script.unlink()
    with pytest.raises(UsageError, match="pip install"):
        helper.program()

"""Fixtures of the command line's tests: a home of one's own, running the whole program, a mount that answers."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobfs import mountpoint
from jobfs.__main__ import main
from jobfs.cli import preflight, umount

from .world import Answering, JobCheck, Make, MountTable, Outcome, Run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("JOBFS_", "PERSTACK_", "XDG_")):
            monkeypatch.delenv(name)
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    run.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return home


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobfs"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty directory to mount at."""
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `jobfs ARGUMENTS` in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = main([*map(str, arguments)])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> MountTable:
    """No mount, until a test adds one; nothing is mounted."""
    table, statvfs = MountTable(), os.statvfs

    def answer(path: Any) -> os.statvfs_result:
        if path in table.dead:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", path)
        return statvfs(path)

    monkeypatch.setattr(mountpoint, "list_mounts", lambda *_: table.mounts)
    monkeypatch.setattr(os, "statvfs", answer)
    for module in (preflight, umount):
        monkeypatch.setattr(module, "unmount", table.unmount)
    return table


@pytest.fixture
def job_check(monkeypatch: pytest.MonkeyPatch) -> JobCheck:
    """What the server answers to the check of a job, as the test says."""
    check = JobCheck()
    monkeypatch.setattr(preflight, "check_server_and_count_items", check.count_items)
    return check


@pytest.fixture
def own_logging() -> Iterator[None]:
    """A test may set up logging: it ends with the test."""
    root, ours = logging.getLogger(), logging.getLogger("jobfs")
    before = root.handlers[:], root.level, ours.level
    root.handlers = []
    yield
    root.handlers, level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture
def answering(state: Path) -> Iterator[Make]:
    made: list[Answering] = []

    def answering(directory: str | Path, **handlers: Any) -> Answering:
        made.append(Answering(state, str(directory), **handlers))
        return made[-1]

    yield answering
    for one in made:
        one.end()

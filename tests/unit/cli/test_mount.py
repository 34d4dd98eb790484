"""`jobfs mount`: in which order things happen, and that a failure leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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

    def run(settings: Any, place: Any, build: Any, say: Any, on_mounted: Any) -> int:
        events.append(("run", settings, place.record.directory, slot.in_use(slot.look(place.path))))
        on_mounted()
        return 0

    monkeypatch.setenv("PERSTACK_API_KEY", "sk-secret")
    monkeypatch.setattr("os.umask", lambda mask: events.append(f"umask {mask:o}"))
    monkeypatch.setattr(preflight, "check_machine", check_machine)
    monkeypatch.setattr(preflight, "check_server", lambda *args: events.append("server"))
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


def test_it_goes_to_the_background_unless_told_otherwise(
    run: Run, events: list[Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    went: list[Any] = []

    def in_background(serve: Any) -> int:
        went.append(serve)
        return 0

    monkeypatch.setattr(command, "in_background", in_background)
    assert run("mount", JOB, place).code == 0
    assert len(went) == 1
    assert events == ["machine"]


def test_a_server_that_refuses_leaves_no_state(
    run: Run, events: list[Any], place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise UsageError("refused")

    monkeypatch.setattr(preflight, "check_server", refuse)
    assert run("mount", JOB, place, "-f") == Outcome(2, "", "jobfs: refused\n")
    assert not (state / JOB).exists()


def test_a_mount_that_fails_frees_its_slot(
    run: Run, events: list[Any], place: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> int:
        raise UsageError("could not mount")

    monkeypatch.setattr(mounting, "run", fail)
    assert run("mount", JOB, place, "-f") == Outcome(2, "", "jobfs: could not mount\n")
    assert slot.running(state) == []


def test_warnings_are_said_before_it_is_mounted(
    run: Run, events: list[Any], place: Path, state: Path
) -> None:
    other = slot.acquire(state, JOB, str(place), "https://other.example.com")
    other.journal.touch()
    other.close()
    done = run("mount", JOB, place, "-f")
    assert done.code == 0
    assert str(other.path) in done.err


def test_the_exit_code_is_the_mounts(
    run: Run, events: list[Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounting, "run", lambda *args: 1)
    assert run("mount", JOB, place, "-f").code == 1


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

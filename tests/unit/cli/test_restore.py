"""`jobfs restore` where no mount runs any more."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from jobfs.state.copies import SAVES, CopyStore
from jobfs.state.directory import acquire_state_directory

from .world import JOB, Outcome, Run

FILE = "/mnt/a/file"
NOTHING = Outcome(2, "", f"jobfs: no save of {FILE} is kept on this machine\n")


def keep(tmp_path: Path, job: str, data: bytes, days: float = 0.0) -> None:
    """Leave the state directory of a mount that has saved FILE so many days ago."""
    source = tmp_path / job  # which a kept save is a link to
    source.write_bytes(data)
    place = acquire_state_directory(tmp_path / "state/jobfs", job, "/mnt/a", "http://127.0.0.1:1")
    (place.path / "journal.db").touch()
    store = CopyStore(place.path / SAVES, clock=lambda: time.time() - days * 86_400)
    with closing(place), closing(store) as saves:
        saves.commit("file", saves.prepare("file", source, len(data)))


def test_a_save_is_forgotten_by_every_ended_mount_of_its_place(run: Run, tmp_path: Path) -> None:
    """vfs/semantics.md 4.53: two jobs were mounted at one directory, one after the other; the later save is printed."""
    keep(tmp_path, JOB, b"before")
    keep(tmp_path, "b" * 24, b"secret")
    assert len(list(tmp_path.rglob("saves/[0-9]*"))) == 2
    assert run("restore", FILE) == Outcome(0, "secret", "")
    assert run("restore", "--forget", FILE) == Outcome(0, "", "")
    assert run("restore", FILE) == NOTHING


@pytest.mark.parametrize(("days", "outcome"), [(29.9, Outcome(0, "secret", "")), (30.1, NOTHING)])
def test_a_save_is_printed_for_30_days(run: Run, tmp_path: Path, days: float, outcome: Outcome) -> None:
    """vfs/semantics.md 4.52: also where no mount has run since."""
    keep(tmp_path, JOB, b"secret", days)
    assert run("restore", FILE) == outcome

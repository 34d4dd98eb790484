"""`jobfs restore` where no mount runs any more."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from jobfs.state.copies import SAVES, CopyStore
from jobfs.state.directory import acquire_state_directory

from .world import JOB, Outcome, Run


def test_a_save_is_forgotten_by_every_ended_mount_of_its_place(run: Run, tmp_path: Path) -> None:
    """vfs/semantics.md 4.53: two jobs were mounted at one directory, one after the other."""
    source, file = tmp_path / "source", "/mnt/a/file"
    source.write_bytes(b"secret")
    for job in (JOB, "b" * 24):
        place = acquire_state_directory(tmp_path / "state/jobfs", job, "/mnt/a", "http://127.0.0.1:1")
        (place.path / "journal.db").touch()
        with closing(place), closing(CopyStore(place.path / SAVES)) as saves:
            saves.commit("file", saves.prepare("file", source, 6))
    assert len(list(tmp_path.rglob("saves/[0-9]*"))) == 2
    assert run("restore", file) == Outcome(0, "secret", "")
    assert run("restore", "--forget", file) == Outcome(0, "", "")
    assert run("restore", file) == Outcome(2, "", f"jobfs: no save of {file} is kept on this machine\n")

"""Finding running mounts by path; dead ones are told from others, and taken away."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from jobfs.cli import running
from jobfs.cli.running import find_mount_of, running_mounts
from jobfs.errors import UsageError
from jobfs.settings import load_settings
from jobfs.state import directory as directories

from .world import JOB, URL, Make, MountTable


def test_a_mount_in_the_usual_state_directory_is_found(answering: Make) -> None:
    one = answering("/mnt/a")
    assert [found.path for found in running_mounts(None)] == [one.slot.path]
    for path, rest in (("/mnt/a", ""), ("/mnt/a/", ""), ("/mnt/a/b/c.txt", "b/c.txt")):
        assert find_mount_of(path, None)[1] == rest
    inner = answering("/mnt/a/b")
    assert find_mount_of("/mnt/a/b/c", None) == (directories.inspect_directory(inner.slot.path), "c")
    assert find_mount_of("/mnt/a/bc", None)[1] == "bc"


def test_a_mount_is_found_by_a_relative_or_linked_path(
    answering: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    answering(tmp_path / "mnt")
    monkeypatch.chdir(tmp_path)
    for path in ("mnt/file", "link/file", str(tmp_path / "link" / "file")):
        assert find_mount_of(path, None)[1] == "file"


def test_a_mount_is_found_by_its_status_or_its_state_directory(table: MountTable, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    one = directories.acquire_state_directory(tmp_path / "elsewhere", JOB, str(point), URL)
    assert running_mounts(None) == []
    assert [found.path for found in running_mounts(str(tmp_path / "elsewhere"))] == [one.path]
    (point / ".jobfs").mkdir(parents=True)
    (point / ".jobfs" / "status.json").write_text(json.dumps({"state_dir": str(one.path)}))
    table.add(point)
    assert find_mount_of(str(point), None) == (directories.inspect_directory(one.path), "")
    assert find_mount_of(str(point / "x" / ".y"), None) == (directories.inspect_directory(one.path), "x/.y")
    one.close()
    with pytest.raises(UsageError, match="--state-dir"):
        find_mount_of(str(point), None)


@pytest.mark.parametrize("job", [JOB, "k" * 24])
def test_a_dead_mount_belongs_to_the_job_mounted_there_last(
    table: MountTable, tmp_path: Path, job: str
) -> None:
    """vfs/semantics.md 6: the unsent files that are told are those of that job, not of an earlier job of the directory."""
    for each in (JOB, "k" * 24):
        with closing(directories.acquire_state_directory(tmp_path / "state", each, "/mnt/a", URL)) as taken:
            (taken.path / "journal.db").touch()
    table.add("/mnt/a", job, dead=True)
    (one,) = (each for each in running.find_ended(str(tmp_path / "state")) if each.dead)
    assert one.found.path.parent.name == job


def test_a_path_without_a_mount_is_reported_with_the_cause(table: MountTable, tmp_path: Path) -> None:
    """vfs/semantics.md 6.16: the remedies can be pasted."""
    tmp_path /= "a b"
    with pytest.raises(UsageError, match=f"no job is mounted at {tmp_path}"):
        find_mount_of(str(tmp_path), None)
    for user, stale, words in (
        (os.geteuid(), True, f"process that served {tmp_path} is gone: .*jobfs umount '{tmp_path}'"),
        (54321, False, "was mounted by user 54321"),
        (os.geteuid(), False, f"--state-dir of that mount, or unmount it with fusermount -u '{tmp_path}';"),
    ):
        table.dead.clear()
        table.add(tmp_path, user=user, dead=stale)
        for path in (tmp_path, tmp_path / "below" / "file"):
            with pytest.raises(UsageError, match=words):
                find_mount_of(str(path), None)


def test_the_printed_command_sends_the_files_of_an_ended_mount(tmp_path: Path) -> None:
    """vfs/semantics.md 6.18: with the server, the state directory and the key file of that mount; nothing for the defaults."""
    state, point = tmp_path / "st ate", "/mnt/a b"
    directories.acquire_state_directory(state, JOB, point, URL, Path("/keys/$mine")).close()
    (found,) = directories.find_of_job(state, JOB)
    one, dead = (running.EndedMount(found, is_dead, "1 unsent") for is_dead in (False, True))
    where = f"--state-dir '{state}'"
    assert one.description.endswith(
        f", or run jobfs recover {JOB} --base-url {URL} {where} --api-key-file '/keys/$mine'"
    )
    assert f", or run jobfs umount '{point}' {where}; it has left" in dead.description
    (found.path / "mount.json").unlink()
    lost = running.EndedMount(directories.inspect_directory(found.path), False, "1 unsent")
    assert lost.description.endswith(f", or run jobfs recover {JOB} {where}")
    usual = directories.FoundDirectory(load_settings({}).state_dir / JOB / ("0" * 12), None)
    assert running.EndedMount(usual, False, "x").recovery_command == f"jobfs recover {JOB}"

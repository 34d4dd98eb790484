"""Finding running mounts by path; dead ones are told from others, and taken away."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import platformdirs
import pytest

from jobfs import mountpoint
from jobfs.cli import running
from jobfs.cli.running import bounded, mount_of, mounts, registered
from jobfs.errors import UsageError
from jobfs.mountpoint import MountInfo
from jobfs.state import directory as slot

from .conftest import JOB, URL, Answering


def test_a_mount_in_the_usual_state_directory_is_found(answering: Callable[..., Answering]) -> None:
    one = answering("/mnt/a")
    assert [found.path for found in mounts(None)] == [one.slot.path]
    assert mount_of("/mnt/a", None)[1] == ""
    assert mount_of("/mnt/a/", None)[1] == ""
    assert mount_of("/mnt/a/b/c.txt", None)[1] == "b/c.txt"


def test_a_mount_elsewhere_is_found_by_the_register_or_by_being_told(tmp_path: Path) -> None:
    one = slot.acquire(tmp_path / "elsewhere", JOB, "/mnt/b", URL)
    assert mounts(None) == []
    assert [found.path for found in mounts(str(tmp_path / "elsewhere"))] == [one.path]
    with registered("/mnt/b", one.path):
        assert [found.path for found in mounts(None)] == [one.path]
        assert mount_of("/mnt/b/x", None) == (slot.look(one.path), "x")
    assert mounts(None) == []
    one.close()


def test_the_register_is_kept_for_a_later_mount_of_a_directory_and_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = slot.acquire(tmp_path / "one", JOB, "/mnt/b", URL)
    two = slot.acquire(tmp_path / "two", JOB, "/mnt/b", URL)
    with registered("/mnt/b", two.path):
        with registered("/mnt/b", one.path):
            later = registered("/mnt/b", two.path)
            later.__enter__()
        assert [found.path for found in mounts(None)] == [two.path], (
            "the first one ended after the second began"
        )
    with monkeypatch.context() as patch, registered("/mnt/b", one.path):
        patch.setattr(Path, "symlink_to", full)
        with registered("/mnt/b", two.path):
            pass
    one.close()
    two.close()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


def test_the_innermost_mount_counts(answering: Callable[..., Answering]) -> None:
    answering("/mnt/a")
    inner = answering("/mnt/a/b")
    assert mount_of("/mnt/a/b/c", None) == (slot.look(inner.slot.path), "c")
    assert mount_of("/mnt/a/bc", None)[1] == "bc"


def test_a_path_through_a_link_is_found(answering: Callable[..., Answering], tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    answering(tmp_path / "mnt")
    assert mount_of(str(tmp_path / "link" / "file"), None)[1] == "file"


def test_a_relative_path_is_found(
    answering: Callable[..., Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path / "mnt")
    monkeypatch.chdir(tmp_path)
    assert mount_of("mnt/file", None)[1] == "file"


def test_an_ended_mount_is_forgotten(answering: Callable[..., Answering], tmp_path: Path) -> None:
    one = answering("/mnt/a")
    with registered("/mnt/a", one.slot.path):
        one.end()
        assert mounts(None) == []
        assert list((tmp_path / "run" / "jobfs").iterdir()) == []


def test_a_dead_mount_is_found_wherever_its_state_is_and_forgotten_once_it_is_gone(
    answering: Callable[..., Answering], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One way for `doctor` and `umount --all`: the register, and the slots of the state directory."""
    elsewhere = slot.acquire(tmp_path / "elsewhere", JOB, "/mnt/a", URL)
    answering("/mnt/alive")
    there = [
        MountInfo("1", "0:1", point, "fuse.jobfs", 0) for point in ("/mnt/a", "/mnt/theirs", "/mnt/alive")
    ]
    monkeypatch.setattr(mountpoint, "mounts", lambda: there)
    monkeypatch.setattr(running, "is_dead", lambda point: point != "/mnt/alive")
    with registered("/mnt/a", elsewhere.path):
        elsewhere.close()
        assert [found.path for found in mounts(None)] != [elsewhere.path]
        assert {point: found.path for point, found in running.dead_mounts(None).items()} == {
            "/mnt/a": elsewhere.path
        }
        there.clear()
        assert running.dead_mounts(None) == {}
        assert list((tmp_path / "run" / "jobfs").iterdir()) == []


@pytest.mark.parametrize("job", [JOB, "k" * 24])
def test_a_dead_mount_is_of_the_job_that_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    """vfs/semantics.md 6: what is said to be left is that job's, not that of another which had the directory before."""
    for each in (JOB, "k" * 24):
        with closing(slot.acquire(tmp_path / "state", each, "/mnt/a", URL)) as taken:
            (taken.path / "journal.db").touch()
    monkeypatch.setattr(mountpoint, "mounts", lambda: [MountInfo("1", "0:1", "/mnt/a", "fuse.jobfs", 0, job)])
    monkeypatch.setattr(running, "is_dead", lambda point: True)
    record = running.dead_mounts(str(tmp_path / "state"))["/mnt/a"].record
    assert record is not None
    assert record.job == job


def test_a_broken_entry_harms_nobody(answering: Callable[..., Answering], tmp_path: Path) -> None:
    one = answering("/mnt/a")
    with registered("/mnt/a", one.slot.path):
        (tmp_path / "run" / "jobfs" / "a file").write_text("{")
        (tmp_path / "run" / "jobfs" / "astray").symlink_to("/nowhere")
        assert len(mounts(None)) == 1


def test_no_mount_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=f"no job is mounted at {tmp_path}"):
        mount_of(str(tmp_path), None)
    for user, stale, words in (
        (0, True, f"process that served {tmp_path} is gone: .*jobfs umount {tmp_path}"),
        (54321, False, "was mounted by user 54321"),
        (os.geteuid(), False, "--state-dir"),
    ):
        there = MountInfo("1", "0:1", str(tmp_path), "fuse.jobfs", user)
        monkeypatch.setattr(
            running, "mount_at", lambda path, there=there: there if path == there.point else None
        )
        monkeypatch.setattr(running, "is_dead", lambda path, stale=stale: stale)
        for path in (tmp_path, tmp_path / "below" / "file"):
            with pytest.raises(UsageError, match=words):
                mount_of(str(path), None)


@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_register_that_others_can_write_is_not_used(tmp_path: Path, mode: int) -> None:
    register = tmp_path / "run" / "jobfs"
    register.mkdir()
    register.chmod(mode)
    with registered("/mnt/a", tmp_path):
        assert list(register.iterdir()) == []


def test_a_register_behind_a_link_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "run" / "jobfs").symlink_to(tmp_path / "target")
    with registered("/mnt/a", tmp_path):
        assert list((tmp_path / "target").iterdir()) == []


def test_where_there_is_no_place_for_a_register_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsafe(name: str) -> Path:
        raise PermissionError("/tmp is writable by another user")

    monkeypatch.setattr(platformdirs, "user_runtime_path", unsafe)
    with registered("/mnt/a", tmp_path):
        assert mounts(None) == []


def test_what_takes_too_long_is_left_to_itself() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        bounded(lambda: never.wait(20), 0.01)
    never.set()
    assert bounded(lambda: 3, 20) == 3


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_what_fails_in_time_fails_here(error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        bounded(fail, 20)

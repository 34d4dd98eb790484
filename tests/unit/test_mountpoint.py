"""What the kernel says of a mount point: what is mounted, who uses it, how it goes."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from jobfs.errors import JobfsError
from jobfs.mountpoint import (
    BusyError,
    MountInfo,
    describe_programs,
    find_mount_at,
    list_mounts,
    run_bounded,
    unmount,
)

LINES = r"""
42 27 0:39 / /mnt/my\040job\134 rw,nosuid shared:1 - fuse.jobfs jobfs:x rw,user_id=1000,group_id=7
43 42 8:1 /home / rw - ext4 /dev/sda1 rw
44 42 0:40 / /mnt/my\040job\134 rw - tmpfs tmpfs rw
45 27 0:41 / /mnt/仕事　一\r rw - tmpfs tmpfs rw
""".lstrip()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mountinfo").write_bytes(LINES.replace("\\r", "\r").encode())
    return tmp_path / "mountinfo"


def test_mounts_are_read_with_their_owner_and_spaces(table: Path) -> None:
    """The kernel escapes no white space but a space, a tab and a new line."""
    jobfs, disk, memory, other = list_mounts(table)
    assert jobfs == MountInfo("42", "0:39", "/mnt/my job\\", "fuse.jobfs", 1000, "jobfs:x")
    assert (disk.point, disk.kind, disk.user, other.point) == ("/", "ext4", None, "/mnt/仕事\u3000一\r")
    assert (find_mount_at("/mnt/my job\\", table), find_mount_at("/mnt", table)) == (memory, None)


def test_an_ordinary_user_unmounts_with_fusermount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for said, lazy, error in (
        ("", False, None),
        ("fusermount: failed to unmount /m: Device or resource busy", False, BusyError),
        ("fusermount: entry for /m not found in /etc/mtab", False, None),
        ("fusermount: something else", True, JobfsError),
    ):
        tool = tmp_path / "fusermount"
        tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\necho "{said}" >&2\ntest -z "{said}"\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(error) if error else nullcontext():
            unmount("/m", lazy=lazy)
        assert (tmp_path / "args").read_text().split() == ["-u", *(["-z"] if lazy else []), "--", "/m"]
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(JobfsError, match="can't unmount /m: fusermount can't be run: No such file"):
        unmount("/m")


def test_programs_are_described_in_one_line() -> None:
    assert describe_programs(["vim (42: a)", "git (7: b)"]) == "vim (42: a), git (7: b)"
    assert describe_programs(["vim (42: a)"] * 7) == "vim (42: a), " * 5 + "2 more"
    assert describe_programs([]) == "a program that can't be seen from here"


def test_a_bounded_call_raises_timeout_error_or_the_error_of_the_call() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        run_bounded(lambda: never.wait(20), 0.01)
    never.set()
    assert run_bounded(lambda: 3, 20) == 3
    with pytest.raises(KeyboardInterrupt):
        run_bounded(Mock(side_effect=KeyboardInterrupt), 20)

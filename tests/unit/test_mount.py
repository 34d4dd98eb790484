"""What a mount does around its serving: options, drain, unmounting, naming who is in the way."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.mount.memory_vfs import MemoryVfs

from jobfs import mount
from jobfs.errors import JobfsError
from jobfs.mount import BusyError, Mounted, describe, detach, drain, mount_options, unmount, users_of
from jobfs.settings import load

JOB = "j" * 24


def never() -> bool:
    return False


def test_the_mount_is_named_and_the_kernel_remembers_for_a_part_of_the_ttl() -> None:
    """semantics 1: kernel timeouts count into the TTL."""
    options = mount_options(load({"ttl": 2}), JOB)
    assert f"fsname=jobfs:{JOB}" in options
    assert {"subtype=jobfs", "use_ino", "default_permissions", "big_writes"} <= set(options)
    assert {"attr_timeout=0.4", "entry_timeout=0.4", "negative_timeout=0"} <= set(options)
    assert not {"ro", "allow_other"} & set(options)


def test_read_only_and_allow_other_reach_the_kernel() -> None:
    """semantics 4: -o ro refuses everything that writes."""
    assert {"ro", "allow_other"} <= set(mount_options(load({}, ["ro,allow_other"]), JOB))


class DrainedVfs(MemoryVfs):
    """Drains when it is told to; what is unsent until then stays."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = ["a", "b"]
        self.let_go = threading.Event()
        self.timeouts: list[float | None] = []

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[int, int], None] | None = None
    ) -> list[str]:
        self.timeouts.append(timeout)
        if timeout != 0.0:
            assert self.let_go.wait(20)
            self.unsent = []
        return super().flush_all(path, timeout, progress)


@pytest.fixture
def vfs(monkeypatch: pytest.MonkeyPatch) -> DrainedVfs:
    monkeypatch.setattr(mount, "_LOOK", 0.005)
    return DrainedVfs()


def test_a_drain_ends_when_everything_is_sent(vfs: DrainedVfs) -> None:
    vfs.let_go.set()
    seen: list[tuple[int, int]] = []
    assert drain(_mounted(vfs), None, None, lambda *state: seen.append(state), never, 20) == []
    assert seen == [(0, 0)]
    assert vfs.timeouts == [None]


def test_a_cancelled_drain_tells_what_is_left(vfs: DrainedVfs) -> None:
    assert drain(_mounted(vfs), None, None, None, lambda: True, 20) == ["a", "b"]
    vfs.let_go.set()


def test_a_drain_gives_up_a_server_that_is_gone(vfs: DrainedVfs) -> None:
    assert drain(_mounted(vfs, never), None, None, None, never, 0.05) == ["a", "b"]
    vfs.let_go.set()


def test_a_server_that_comes_back_is_waited_for(vfs: DrainedVfs) -> None:
    looks: list[int] = []

    def answering() -> bool:
        looks.append(1)
        if len(looks) == 40:
            vfs.let_go.set()
        return len(looks) % 2 == 0

    assert drain(_mounted(vfs, answering), None, None, None, never, 10) == []


def test_a_drain_that_fails_is_not_taken_for_done(vfs: DrainedVfs) -> None:
    def broken(path: str) -> None:
        raise ValueError("no journal")

    vfs.let_go.set()
    vfs.hooks["flush_all"] = broken
    assert drain(_mounted(vfs), None, None, None, never, 20) == ["sending failed: no journal"]


def _mounted(vfs: MemoryVfs, answering: Callable[[], bool] = lambda: True) -> Mounted:
    return Mounted(vfs, answering)  # type: ignore[arg-type]


class Kernel:
    """Unmounts as told: each entry of `answers` is for one attempt."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: JobfsError | None) -> None:
        self.answers = list(answers)
        self.calls: list[bool] = []
        monkeypatch.setattr(mount, "unmount", self.unmount)
        monkeypatch.setattr(mount, "users_of", lambda directory: ["vim (42)"])
        monkeypatch.setattr(mount, "_BUSY_PATIENCE", 0.0)

    def unmount(self, directory: str, *, lazy: bool = False) -> None:
        self.calls.append(lazy)
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


def test_an_idle_mount_is_unmounted_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, None)
    assert detach("/mnt/a") == ""
    assert kernel.calls == [False]


def test_a_busy_mount_is_detached_and_its_users_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, BusyError("busy"), None)
    assert "in use by vim (42)" in detach("/mnt/a")
    assert kernel.calls == [False, True]


def test_a_mount_that_cannot_be_unmounted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, JobfsError("not permitted"))
    with pytest.raises(JobfsError, match="not permitted"):
        detach("/mnt/a")


def test_unmounting_what_is_not_mounted_is_no_error(tmp_path: Path) -> None:
    unmount(str(tmp_path))


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
        if error is None:
            unmount("/m", lazy=lazy)
        else:
            with pytest.raises(error):
                unmount("/m", lazy=lazy)
        assert (tmp_path / "args").read_text().split() == ["-u", *(["-z"] if lazy else []), "--", "/m"]


def test_programs_with_something_open_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "inside").mkdir()
    with open(tmp_path / "file") as file:
        holder = subprocess.Popen(["sleep", "60"], stdin=file)
    stander = subprocess.Popen(["sleep", "60"], cwd=tmp_path / "inside")
    try:
        users = users_of(str(tmp_path))
        assert f"sleep ({holder.pid})" in users
        assert f"sleep ({stander.pid})" in users
        assert users_of(f"{tmp_path}-other") == []
    finally:
        for process in (holder, stander):
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("left", "line"),
    [
        ([], ""),
        (["a", {"path": "b", "reason": "x"}], "a, b"),
        ([str(number) for number in range(12)], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
    ],
)
def test_what_is_left_is_described_in_one_line(left: list[Any], line: str) -> None:
    assert describe(left) == line

"""The options that a mount is made with; when its draining ends, and what that leaves."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.clocks import Clock

from jobfs import mount
from jobfs.document import describe_kept, describe_paths
from jobfs.mount import Mount, drain, libfuse_options
from jobfs.nodes import SendProgress
from jobfs.settings import load_settings

JOB = "j" * 24


def test_the_mount_has_a_name_and_kernel_timeouts_within_the_ttl() -> None:
    """vfs/semantics.md 1: kernel timeouts count into the TTL."""
    options = set(libfuse_options(load_settings({"ttl": 2}), JOB))
    names = {f"fsname={JOB}", "subtype=jobfs", "use_ino", "default_permissions", "big_writes"}
    timeouts = {"attr_timeout=0.4", "entry_timeout=0.4", "negative_timeout=0"}
    assert names | timeouts <= options
    assert not {"ro", "allow_other"} & options
    assert "ro" in libfuse_options(load_settings({"read_only": True}), JOB)


def test_the_user_option_of_fstab_implies_noexec() -> None:
    """mount(8): user implies noexec, unless exec comes after it."""
    for given in (["ro,user,noexec,nosuid,nodev,_netdev"], ["user,noexec", "exec"], ["rw,_netdev"]):
        assert ("noexec" in libfuse_options(load_settings({}, given), JOB)) is (given[0][:2] == "ro")


def test_signals_are_handled_after_any_earlier_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 6.5."""
    coming: list[Any] = [OSError(errno.EIO, "once"), ValueError("a fault"), signal.SIGTERM]
    serving = threading.Event()

    def sent(numbers: frozenset[signal.Signals]) -> signal.Signals:
        serving.wait()  # a signal that comes earlier ends the process
        if not coming:
            threading.Event().wait()  # for good: its thread lives as long as the process
        if isinstance(error := coming.pop(0), Exception):
            raise error
        return signal.SIGTERM

    monkeypatch.setattr(signal, "sigwait", sent)
    mount = Mount(load_settings({}), Mock(), print, frozenset({signal.SIGTERM}))
    mount._serving = True
    serving.set()
    assert mount._reasons.get(timeout=20) == "SIGTERM"


class DrainedVfs:
    """Progress as `how_far` says at each look; unless something is `left` in `d`, it ends at the sixtieth."""

    def __init__(self, how_far: Callable[[int], SendProgress], left: list[str]) -> None:
        self.how_far, self.left, self.ends, self.ended = how_far, ["a", "b"], not left, False

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[SendProgress], None] | None = None
    ) -> list[str]:
        assert progress is not None
        for number in range(1, 60 if self.ends else 1000):
            threading.Event().wait(0.005)
            sent = self.how_far(number)
            self.left = [] if self.ends and sent.files == sent.all_files else self.left
            progress(sent)
        self.ended = True
        return []

    def list_unsent(self, under: str | None = None) -> list[dict[str, Any]]:
        return [{"path": path} for path in (*self.left, *["elsewhere"] * (under != "d"))]


@pytest.mark.parametrize(("how_far", "left"), [
    pytest.param(lambda number: SendProgress(0, 2, number, 1000), [], id="bytes move"),
    pytest.param(lambda number: SendProgress(number, 1000), [], id="files are done"),
    pytest.param(lambda number: SendProgress(2, 2), [], id="only cleanup is left"),
    pytest.param(lambda number: SendProgress(0, 2), ["a", "b"], id="nothing moves"),
    pytest.param(lambda number: SendProgress(0, 2, number % 7, 10), ["a", "b"], id="the same bytes move again"),
    pytest.param(lambda number: SendProgress(2, 2), ["a", "b"], id="a rename is left"),
    pytest.param(lambda number: SendProgress(1 // 0, 2), ["a", "b"], id="the progress is an error"),
])  # fmt: skip
def test_a_drain_continues_as_long_as_it_makes_progress(
    how_far: Callable[[int], SendProgress], left: list[str]
) -> None:
    vfs: Any = DrainedVfs(how_far, left)
    found = drain(vfs, 0.1, None, lambda sent: None, lambda: False, "d")
    assert ([entry["path"] for entry in found], vfs.ended) == (left, not left)


@pytest.mark.parametrize(("left", "line"), [
    ([], ""),
    ([{"path": "a"}, {"path": "b", "reason": "x", "state": "dirty"}], "a, b"),
    ([{"path": str(number)} for number in range(12)], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"),
    ([{"path": str(number)} for number in range(10)], "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
    # vfs/semantics.md 4: it is not sent by the next mount.
    ([{"path": "b", "state": "failed"}], "b (refused by the server: run jobfs retry, or jobfs discard)"),
])  # fmt: skip
def test_unsent_files_are_described_in_one_line(left: list[Any], line: str) -> None:
    assert describe_paths(left) == line
    assert describe_kept(left) == (
        f"{len(left)} unsent: kept for the next mount of this job: {line}" if left else ""
    )


class Caller:
    """Who waits for a drain."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.seen: list[SendProgress] = []
        self.send_sentence, self.send_progress = self.said.append, self.seen.append


class SilentVfs:
    """Three files are unsent below "dir", and the server answers nothing since `heard`."""

    heard = 0.0

    def list_unsent(self, under: str | None = None) -> list[dict[str, Any]]:
        return [{"path": f"dir/{number}"} for number in range(3 if under == "dir" else 1)]

    def silence_predicate(self, since: float) -> str:
        return "" if self.heard > since else "does not answer"


def test_a_caller_gets_one_notice_of_a_silent_server_without_progress() -> None:
    """vfs/semantics.md 6.17: three seconds without an answer and without progress."""
    clock = Clock(100.0)
    vfs: Any = SilentVfs()
    vfs.heard = 99.0
    caller: Any = Caller()
    waiting = mount.DrainReporter(vfs, caller, "dir", clock=clock)
    for clock.now, sent in ((102.0, 0), (104.0, 1), (106.5, 1)):
        waiting(SendProgress(sent, 3))
        assert caller.said == []
    for clock.now in (108.0, 120.0):
        waiting(SendProgress(1, 3))
        (printed,) = caller.said
    assert (
        printed
        == "waiting for the server, which does not answer: 3 files are unsent; Ctrl-C ends the waiting"
    )
    assert caller.seen == [SendProgress(0, 3), SendProgress(1, 3)]


def test_waiting_for_a_server_that_answers_prints_nothing() -> None:
    """vfs/semantics.md 6.17: it may refuse for a while, or have much to clean up."""
    clock = Clock(100.0)
    vfs: Any = SilentVfs()
    caller: Any = Caller()
    waiting = mount.DrainReporter(vfs, caller, clock=clock)
    for clock.now in (104.0, 109.0, 120.0):
        vfs.heard = clock.now - 1
        waiting(SendProgress(0, 1))
    assert caller.said == []
    vfs.heard, vfs.list_unsent = 0.0, lambda under: []
    waiting(SendProgress(0, 1))
    (printed,) = caller.said
    assert "everything is sent, but replaced versions are not yet deleted" in printed

"""Mounts whose process is gone: told from others, and taken away."""

from __future__ import annotations

import threading

import pytest

from jobfs.cli import dead
from jobfs.cli.dead import bounded
from jobfs.mountpoint import BusyError


def test_a_dead_mount_in_which_something_is_open_is_detached(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def unmount(path: str, *, lazy: bool = False) -> None:
        calls.append(lazy)
        if not lazy:
            raise BusyError("busy")

    monkeypatch.setattr(dead, "unmount", unmount)
    dead.clear("/mnt/a")
    assert calls == [False, True]


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

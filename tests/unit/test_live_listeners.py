"""Who asks `jobfs watch` is told what changes, from then on, and never holds up the thread that looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest
from tests.support.waiting import eventually
from tests.unit.cli.conftest import a_status

from jobfs import live
from jobfs.document import Change
from jobfs.namespace.news import Happened, News
from jobfs.nodes import Item, Kind


def made(path: str, old: str = "") -> News:
    return News(Happened.RENAMED if old else Happened.CREATED, path, Item("i", Kind.FILE, path, size=1), old)


@pytest.fixture
def vfs() -> Mock:
    return Mock(status=a_status, news=Mock(return_value=[]), watching={"programs": 0, "told": 0})


@contextmanager
def following(vfs: Mock, top: str, tell: Callable[[Change], Any]) -> Iterator[live.Live]:
    over = threading.Event()
    looking = live.Live(vfs, Mock(place=("", 0)), events=False, timeout=5.0)
    thread = threading.Thread(target=looking.follow, args=(top, tell, over.is_set))
    thread.start()
    try:
        eventually(lambda: vfs.watching["programs"] == 1)
        yield looking
    finally:
        over.set()
        thread.join(20)


def test_what_changes_below_a_path_is_told_from_then_on(vfs: Mock) -> None:
    """vfs/semantics.md 7.6, 7.9: what was unseen because nobody looked is no news."""
    told: list[Change] = []
    vfs.news.side_effect = [
        [made("dir/before")],
        [made("dir"), made("dirt"), made("dir/in"), made("out", old="dir/x")],
    ]
    with following(vfs, "dir", told.append) as looking:
        assert looking._look() == 1.0
        eventually(lambda: len(told) == 4)
    assert [each["path"] for each in told] == [None, "dir", "dir/in", "out"]
    assert vfs.watching == {"programs": 0, "told": 4}
    vfs.news.side_effect = None
    vfs.look.reset_mock()
    assert looking._look() >= 2.0
    vfs.look.assert_not_called()


def test_who_takes_long_misses_some_and_is_told_so(vfs: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 7.9."""
    monkeypatch.setattr(live, "_WAITING", 10)
    going_on, told = threading.Event(), list[Change]()

    def slow(each: Change) -> None:
        going_on.wait(20)
        told.append(each)

    with following(vfs, "", slow) as looking:
        vfs.news.return_value = [made(f"f{number}") for number in range(50)]
        looking._look()
        looking._look()
        going_on.set()
        eventually(lambda: len(told) >= 12)
    assert [each["what"] for each in told] == ["job", "missed", *["created"] * 10]

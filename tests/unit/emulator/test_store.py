"""What the local server keeps: its directory, its key, and items under any order of requests."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.clocks import Clock

from jobfs.emulator import DEFAULT_JOB, Behaviour, JobSide, StoredItem
from jobfs.emulator.index import ItemIndex
from jobfs.emulator.keys import find_key, keep_key
from jobfs.emulator.store import EmulatorStore
from jobfs.emulator.workspace import Workspaces
from jobfs.errors import UsageError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmulatorStore]:
    store = EmulatorStore(tmp_path)
    yield store
    store.close()


def contents(directory: Path) -> int:
    return len(list(directory.glob("content/*/*")))


def test_items_survive_a_restart_and_unreferenced_content_is_removed(tmp_path: Path) -> None:
    store = EmulatorStore(tmp_path)
    side = JobSide(Workspaces(store).add(DEFAULT_JOB))
    side.seed({"a/b.txt": "one", "\ud800 hostile": b"", "n\0ul": b""})
    side.set_job(status="completed", current_step=7)
    before, left = side.items(), store.new_blob()
    left.write(b"never committed")
    left.close()
    store.close()
    assert contents(tmp_path) == 4
    store = EmulatorStore(tmp_path)
    side = JobSide(Workspaces(store)[DEFAULT_JOB])
    assert (side.items(), side.read("a/b.txt")) == (before, b"one")
    assert (side.job().status, side.job().current_step) == ("completed", 7)
    assert contents(tmp_path) == 3
    store.close()


def test_replaced_content_is_removed_but_a_reader_keeps_it(store: EmulatorStore) -> None:
    workspace = Workspaces(store).add(DEFAULT_JOB)
    side = JobSide(workspace)
    item = side.write("f", "old")
    _, fd = workspace.open_content(item.id)
    side.write("f", "new")
    assert os.read(fd, 10) == b"old"
    os.close(fd)
    assert contents(store.directory) == 1


def test_timestamps_are_unique_and_never_whole_seconds(tmp_path: Path) -> None:
    with closing(EmulatorStore(tmp_path, clock=Clock(999.9999))) as store:
        moments = [store.now_us() for _ in range(2000)]
    assert moments == sorted(set(moments))
    assert 1_000_001_000 in moments
    assert all(moment % 1_000_000 >= 1000 for moment in moments)


def test_a_directory_in_use_or_with_a_damaged_database_is_refused(
    store: EmulatorStore, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="in use"):
        EmulatorStore(store.directory)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/items.db").write_text("this is no database, " * 99)
    for _ in range(2):  # it is free again
        with pytest.raises(UsageError, match="no usable state"):
            EmulatorStore(tmp_path / "damaged")


def test_a_new_key_is_printed_once_and_a_given_key_never(tmp_path: Path) -> None:
    new = find_key(tmp_path, None, None)
    assert new.key in new.source
    keep_key(new)
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o600
    again = find_key(tmp_path, None, None)
    assert (again.key, again.key in again.source) == (new.key, False)
    assert find_key(tmp_path, "given", None) == ("given", "as given", None)
    for content, key in ((b"from-a-file\n", "from-a-file"), (b" \n", ""), (b"\xff", "")):
        (tmp_path / "k").write_bytes(content)
        if key:
            assert find_key(tmp_path, None, tmp_path / "k").key == key
        else:
            with pytest.raises(UsageError, match="key file"):
                find_key(tmp_path, None, tmp_path / "k")


def index_of(*items: tuple[str, str, int]) -> ItemIndex:
    """Items with an id, a lifecycle and a moment, all at one path."""
    index = ItemIndex()
    for item_id, lifecycle, moment in items:
        index.put(StoredItem(item_id, "file", "p", "user", lifecycle, "readWrite", moment, moment))
    return index


def test_the_jobs_item_precedes_a_default_and_then_the_newest_wins() -> None:
    index = index_of(("own", "expertJob", 1), ("older", "expertJob", 0), ("default", "application", 9))
    shown = index.shown_at("p")
    assert shown is not None
    assert shown.id == "own"


def test_an_unstable_order_changes_but_moves_no_item_far() -> None:
    index = index_of(*((str(number), "expertJob", 0) for number in range(40)))
    unstable, chance = Behaviour(list_order="unstable"), random.Random(0)
    rounds = [[int(one.id) for one in index.in_list_order(unstable, chance)] for _ in range(5)]
    assert len({tuple(order) for order in rounds}) > 1
    for order in rounds:
        assert sorted(order) == list(range(40))
        assert all(abs(place - number) < 4 for place, number in enumerate(order))

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobfs.emulator import DEFAULT_JOB, JobSide
from jobfs.emulator.store import Store
from jobfs.errors import UsageError


def contents(directory: Path) -> list[str]:
    return [name for _, _, names in os.walk(directory / "content") for name in names]


def test_items_contents_and_job_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    side = JobSide(store.add_job(DEFAULT_JOB))
    side.seed({"a/b.txt": "one", "\ud800 hostile": b"", "n\0ul": b""})
    side.set_job(status="completed", current_step=7)
    before = side.items()
    store.close()
    store = Store(tmp_path)
    side = JobSide(store.workspaces[DEFAULT_JOB])
    assert side.items() == before
    assert side.read("a/b.txt") == b"one"
    assert (side.job().status, side.job().current_step) == ("completed", 7)
    store.close()


def test_a_content_that_no_item_names_is_removed_at_the_next_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    JobSide(store.add_job(DEFAULT_JOB)).seed({"kept": "x"})
    left = store.new_blob()
    left.write(b"never committed")
    left.close()
    store.close()
    assert len(contents(tmp_path)) == 2
    Store(tmp_path).close()
    assert len(contents(tmp_path)) == 1


def test_a_replaced_content_goes_but_a_reader_keeps_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    workspace = store.add_job(DEFAULT_JOB)
    side = JobSide(workspace)
    item = side.write("f", "old")
    _, fd = workspace.open_content(item.id)
    side.write("f", "new")
    assert os.read(fd, 10) == b"old"
    os.close(fd)
    assert len(contents(tmp_path)) == 1
    store.close()


def test_the_clock_never_says_the_same_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    moments = [store.now_us() for _ in range(2000)]
    assert moments == sorted(set(moments))
    store.close()


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="in use"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_damaged_database_is_refused_and_the_directory_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "items.db").write_text("this is no database, " * 99)
    for _ in range(2):
        with pytest.raises(UsageError, match="no usable state"):
            Store(tmp_path)

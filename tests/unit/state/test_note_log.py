"""The log of notes on the disk (vfs/semantics.md 4.63)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.files import open_below

from jobfs.nodes import Item, Kind
from jobfs.state.localbytes import BOOT
from jobfs.state.note_log import NoteLog
from jobfs.state.processes import Process
from jobfs.state.records import Base

from .conftest import failing

ITEM = Item("i", Kind.FILE, "dir/\u00fc\u2028\n", updated_at="1", size=None)
TOP = Process(None, "1", "2")
PROCESS = Process(TOP, "30", "4")
ENTRY: tuple[Any, ...] = ("note", PROCESS, "path", ITEM, None, True, Base("i", "1", 2, "hash", racy=True))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[NoteLog]:
    log = NoteLog(tmp_path / "notes")
    log.compact([])
    with closing(log):
        yield log


def loaded(path: Path | None) -> list[list[Any]]:
    """The entries that the next mount gets."""
    keys: dict[tuple[tuple[str, str], ...], Process] = {
        (("30", "4"), ("1", "2")): PROCESS,
        (("", ""), ("1", "2")): TOP,
    }
    return [*NoteLog(path).load(lambda lineage: keys[tuple((number, start) for number, start in lineage)])]


def test_entries_are_as_they_were_appended(log: NoteLog, tmp_path: Path) -> None:
    """vfs/semantics.md 4.63: whatever characters are in a path; 6.15."""
    descriptors = open_below(tmp_path)
    log.append(ENTRY)
    log.append(("note", TOP.ended_descendants))
    assert loaded(tmp_path / "notes") == [[*ENTRY], ["note", TOP]]
    log.compact([("placed", "path")])
    log.append(("moved",))
    assert loaded(tmp_path / "notes") == [["placed", "path"], ["moved"]]
    assert open_below(tmp_path) == descriptors


@pytest.mark.parametrize("boot", ["", "another"])
def test_a_log_of_another_boot_has_no_entries(log: NoteLog, tmp_path: Path, boot: str) -> None:
    """vfs/semantics.md 4.63: the processes of its numbers have ended."""
    log.append(ENTRY)
    notes = tmp_path / "notes"
    written, entries = notes.read_text().split("\n", 1)
    assert (written, len(loaded(notes))) == (BOOT, 1)
    notes.write_text(f"{boot}\n{entries}")
    assert loaded(notes) == []


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_log_that_is_missing_or_damaged_has_no_entries(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "notes").write_bytes(content)
    assert loaded(tmp_path / "notes") == []
    with closing(NoteLog(None)) as nothing:
        nothing.compact([ENTRY])
        nothing.append(ENTRY)
    assert loaded(None) == []


def test_a_full_disk_costs_only_the_notes_made_then(log: NoteLog, tmp_path: Path) -> None:
    """vfs/semantics.md 4.63: a note that the disk rejects ends with its mount."""
    log.append(("before",))
    with failing("write", errno.ENOSPC), failing("write_bytes", errno.ENOSPC, of=Path):
        log.append(ENTRY)
        log.compact([ENTRY])
    log.append(("after",))
    assert loaded(tmp_path / "notes") == [["before"], ["after"]]
    log.compact([ENTRY])
    assert loaded(tmp_path / "notes") == [[*ENTRY]]


def test_a_part_of_a_line_does_not_spoil_the_next(log: NoteLog, tmp_path: Path) -> None:
    """vfs/semantics.md 4.63: as a full disk leaves it, which has room again later."""
    log.append(ENTRY)
    size = (tmp_path / "notes").stat().st_size
    with (tmp_path / "notes").open("r+b") as file:
        file.truncate(size - 5)
    log.append(("next",))
    assert loaded(tmp_path / "notes") == [["next"]]

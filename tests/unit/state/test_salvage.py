"""What an ended mount has unsent, as the next mount would send it (vfs/semantics.md 6, Unsent files without a server)."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.state.conftest import failing

from jobfs.errors import UsageError
from jobfs.nodes import Kind
from jobfs.state.journal import Journal
from jobfs.state.localbytes import BOOT, generation_path
from jobfs.state.records import File
from jobfs.state.salvage import UnsentEntry, list_local_bytes, read_unsent

#: When the bytes of `place` were written last, in ns, and that time in a name.
WRITTEN, STAMP = 1_764_594_303 * 10**9, "20251201T130503Z"
LOST = "was closed just before the power failed"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bytes").mkdir()
    record(tmp_path)
    return tmp_path


Keep = Callable[..., Path]


@pytest.fixture
def keep(place: Path) -> Keep:
    """Keep bytes for a generation of a File."""

    def keep(ino: int, generation: int, content: bytes) -> Path:
        path = generation_path(place / "bytes", ino, generation)
        path.write_bytes(content)
        os.utime(path, ns=(WRITTEN, WRITTEN))
        return path

    return keep


def record(place: Path, *files: File) -> None:
    """Note these Files in the journal, which is made if it is not there."""
    journal = Journal(place / "journal.db")
    journal.write(*((file, {}) for file in files))
    journal.close()


def test_only_closed_files_and_new_directories_count_as_unsent(place: Path, keep: Keep) -> None:
    """vfs/semantics.md 6.19, 6.20: the bytes that were closed, those of an empty file too; directories first."""
    for nothing in (place, place / "no such place"):
        assert (read_unsent(nothing), list_local_bytes(nothing)) == ([], [])
    closed, refused, empty = keep(1, 1, b"closed"), keep(2, 2, b"refused"), keep(3, 3, b"")
    for ino in (4, 5, 6):
        keep(ino, ino, b"no")
    record(
        place,
        File(1, path="dir/closed", generation=1, size=6, mode=0o600, mtime_ns=7, item_id="i"),
        File(2, path="refused", generation=2, size=7, refused="Too large", boot=BOOT),
        File(3, path="empty", generation=3),
        File(4, path="scratch~", generation=4, size=2, never_sent=True),
        File(5, path=None, generation=5, size=2),
        File(6, path="clean", item_id="i", mode=0o600),
        File(7, Kind.DIRECTORY, path="dir", mode=0o750),
        File(8, Kind.DIRECTORY, path="there", item_id="i", mode=0o750),
    )
    assert read_unsent(place) == [
        UnsentEntry("dir", mode=0o750),
        UnsentEntry("dir/closed", closed, 6, 0o600, 7),
        UnsentEntry("refused", refused, 7),
        UnsentEntry("empty", empty, 0),
    ]


@pytest.mark.parametrize(("file", "kept", "expected"), [
    ({"generation": 1, "size": 3}, {1: b"closed"}, [("a.txt", 1, 3, ""), ("", 1, None, "was never closed")]),
    ({"generation": 1, "size": 3, "open_generation": 2}, {1: b"closed", 2: b"new"},
     [("a.txt", 1, 3, ""), ("", 2, None, "was never closed")]),
    ({"generation": 1, "size": 6, "open_generation": 2}, {1: b"closed", 2: b""}, [("a.txt", 1, 6, "")]),
    ({"open_generation": 2, "item_id": "i"}, {2: b"new"}, [("", 2, None, "was never closed")]),
    ({"open_generation": 2}, {2: b""}, []),
    ({"open_generation": 2}, {}, []),
    ({"generation": 1, "size": 3, "boot": "another"}, {1: b"closed"}, [("", 1, None, LOST)]),
    ({"generation": 1, "size": 3, "boot": "another", "open_generation": 2}, {1: b"closed", 2: b"new"},
     [("", 1, None, LOST), ("", 2, None, "was never closed")]),
    ({"open_generation": 2, "never_sent": True}, {2: b"new"}, []),
    ({"open_generation": 2, "path": None}, {2: b"new"}, []),
])  # fmt: skip
def test_bytes_never_closed_or_in_doubt_get_another_name(
    place: Path,
    keep: Keep,
    file: dict[str, object],
    kept: dict[int, bytes],
    expected: list[tuple[object, ...]],
) -> None:
    """vfs/semantics.md 6.20: as the next mount does it, with the time of the last write."""
    for generation, content in kept.items():
        keep(1, generation, content)
    record(place, File(**{"ino": 1, "path": "a.txt", "mode": 0o640, **file}))  # type: ignore[arg-type]
    found = read_unsent(place)
    number = [int(entry.source.suffix[1:]) if entry.source else 0 for entry in found]
    assert [
        (entry.path.replace(f"a.recovered-{STAMP}.txt", ""), generation, entry.size, entry.reason)
        for entry, generation in zip(found, number, strict=True)
    ] == expected
    assert {(entry.mode, entry.mtime_ns) for entry in found if entry.reason} <= {(0o640, WRITTEN)}


def other_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
    db.close()


@pytest.mark.parametrize(("damage", "why"), [
    (other_version, "its journal can't be used: another version of jobfs wrote it"),
    (lambda path: path.write_bytes(b"no database" * 100), "its journal can't be used: file is not a database"),
    (lambda path: path.write_bytes(b""), "its journal can't be used: it is empty"),
    (Path.unlink, "its journal can't be used: it is empty"),
])  # fmt: skip
def test_without_a_journal_files_are_named_by_their_numbers(
    place: Path, keep: Keep, damage: Callable[[Path], object], why: str
) -> None:
    """vfs/semantics.md 6.21."""
    paths = [keep(2, 5, b"two"), keep(1, 3, b"one")]
    record(place, File(1, path="a", generation=3, size=3))
    damage(place / "journal.db")
    with pytest.raises(UsageError, match=f"^{why}$"):
        read_unsent(place)
    assert list_local_bytes(place) == [UnsentEntry("", path) for path in reversed(paths)]


def test_nothing_in_the_state_directory_changes(place: Path, keep: Keep) -> None:
    """vfs/semantics.md 6.19: also where records are in SQLite's log only, as after a kill."""
    keep(1, 1, b"closed")
    journal = Journal(place / "journal.db")
    journal.write((File(1, path="a", generation=1, size=6), {}))
    before = picture(place)
    assert [entry.path for entry in read_unsent(place)] == ["a"]
    assert picture(place) == before
    journal.close()


@pytest.mark.parametrize(("code", "expected"), [(errno.EIO, UsageError), (errno.ENOSPC, OSError)])
def test_an_unreadable_journal_is_damaged_but_one_not_copied_is_not(
    place: Path, code: int, expected: type[Exception]
) -> None:
    """vfs/semantics.md 6.21: with room in the temporary directory, the files have names."""
    with failing("copyfile", code, shutil), pytest.raises(expected, match=f"{os.strerror(code)}$"):
        read_unsent(place)


def picture(top: Path) -> dict[Path, tuple[int, bytes]]:
    contents = {path: path.read_bytes() if path.is_file() else b"" for path in (top, *top.rglob("*"))}
    return {path: (path.stat().st_mtime_ns, content) for path, content in contents.items()}

"""What an ended mount has left, as its journal says, and without a change to it."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Condition
from typing import Any

import pytest

from jobfs.api.deadline import Deadline
from jobfs.errors import PathExistsError
from jobfs.nodes import Kind
from jobfs.state.backlog import Backlog, collect_backlog, read_backlog
from jobfs.state.journal import Journal
from jobfs.state.localbytes import LocalGeneration, generation_path
from jobfs.state.records import Change, File, Stage, Verb

REFUSED = PathExistsError("there already")

#: Of a file that was written and not closed.
OPEN = {"state": "dirty", "reason": "open and changed", "age": None}
LOCAL = LocalGeneration(Condition(), Path(), 1, 2, 7)


def test_unsent_files_of_an_ended_or_killed_mount_are_listed_by_name(tmp_path: Path) -> None:
    assert read_backlog(tmp_path) == Backlog([], [], [])
    journal = Journal(tmp_path / "journal.db")
    assert read_backlog(tmp_path) == Backlog([], [], [])
    journal.write(
        (File(1, path="new", generation=1, size=10), {}),
        (File(2, path="saved", generation=2, size=20, refused="Too large"), {}),
        (File(3, path="touched", mode=0o600), {}),
        (File(4, path="note~", generation=3, size=40, never_sent=True), {}),
        (File(5, Kind.DIRECTORY, path="dir"), {}),
        (File(6, path=None, generation=4, size=80), {}),
        (File(10, path="never closed", open_generation=5), {}),
        (File(11, path="never written", open_generation=6), {}),
        (Change(7, Verb.PUT, "saved", ino=2, generation=2), {}),
        (Change(8, Verb.PUT, "placed", Stage.PLACED), {}),
        (Change(9, Verb.REMOVE, "gone", Stage.STAGED), {}),
    )
    (tmp_path / "bytes").mkdir()
    for ino, draft, content in ((10, 5, b"written"), (11, 6, b"")):
        generation_path(tmp_path / "bytes", ino, draft).write_bytes(content)
    left = read_backlog(tmp_path)
    assert [(entry["path"], entry["size"], entry["reason"]) for entry in left.to_entries()] == [
        ("dir", 0, ""), ("new", 10, ""), ("saved", 20, "Too large"), ("never closed", 0, "open and changed"),
        ("placed", 0, ""), ("gone", 0, ""),
    ]  # fmt: skip
    journal.close()
    again = read_backlog(tmp_path)
    assert [entry["path"] for entry in again.to_entries()] == [entry["path"] for entry in left.to_entries()]


def test_only_a_file_that_was_never_closed_is_open_and_changed() -> None:
    """vfs/semantics.md 6: a file whose closed bytes are sent appears once, and a local only file never."""
    closed = File(1, path="closed, and open again", generation=1, open_generation=2)
    new, attributes = File(4, path="new", open_generation=4), File(2, path="attributes", mode=0o600)
    scratch = File(3, path="note~", open_generation=3, never_sent=True)
    assert collect_backlog([closed, attributes, scratch, new], []) == Backlog([closed], [new], [])


@pytest.mark.parametrize(
    ("change", "file", "expected"),
    [
        ({"deadline": Deadline(1.0)}, {}, {"state": "uploading", "sent": 10}),
        ({}, {}, {}),
        ({}, {"handles": [None]}, {"reason": "open in a program"}),
        ({"attempts": 2}, {"handles": [None]}, {"attempts": 2}),
        ({"attempts": 2, "error": REFUSED}, {}, {"attempts": 2, "reason": "there already"}),
        ({"error": REFUSED}, {"refused": "no room"}, {"state": "failed", "reason": "no room"}),
        ({"planned_at": time.time() + 1000}, {}, {"age": 0.0}),
        ({}, {"open_generation": 2, "local": LOCAL}, {}),
        ({}, {"generation": 0, "open_generation": 2}, OPEN),
        ({}, {"generation": 0, "open_generation": 2, "local": LOCAL}, {**OPEN, "size": 7}),
    ],
)
def test_each_unsent_file_is_listed(
    change: dict[str, Any], file: dict[str, Any], expected: dict[str, Any]
) -> None:
    """vfs/semantics.md 6: what was written and not closed has nothing on its way, whatever an earlier save of it does."""
    values: dict[str, Any] = {"sent": 12, "planned_at": time.time() - 100, **change}
    one = Change(2, Verb.PUT, "new", ino=1, generation=1, **values)
    one.file = of = File(1, path="new", **{"generation": 1, "size": 10, **file})
    of.change = one
    (entry,) = collect_backlog([of], [one] if of.is_unsent else []).to_entries()
    assert entry == {
        "path": "new", "size": 10, "sent": 0, "age": pytest.approx(130, abs=30), "attempts": 0, "reason": "", "state": "staging",
        **expected,
    }  # fmt: skip

"""Which version a program has read (vfs/semantics.md 4, What a save replaces)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Condition

import pytest

from jobfs.nodes import Item, Kind
from jobfs.state.readers import Readers
from jobfs.state.records import Base, Process

FIRST = Item("i", Kind.FILE, "dir/f", updated_at="1", size=1)
SECOND, THIRD = replace(FIRST, updated_at="2"), replace(FIRST, updated_at="3")
VERSIONS = {"0": replace(FIRST, updated_at=""), "1": FIRST, "2": SECOND, "3": THIRD}
#: A version that this mount has placed.
PLACED = {number: Base.of(item, sha256="0" * 64, young=True) for number, item in VERSIONS.items()}

#: Threads by number: their thread group, and the parent of that. A shell with two children, one of which has a child.
SHELL, CAT, MAKE, CC, OTHER = 10, 20, 30, 31, 40
TREE = {1: (1, 0), SHELL: (SHELL, 1), OTHER: (OTHER, 1)}
TREE |= {CAT: (CAT, SHELL), MAKE: (MAKE, SHELL), CC: (CC, MAKE)}
NAMES = {"shell": SHELL, "cat": CAT, "make": MAKE, "cc": CC, "other": OTHER}
THREAD = 21  # of CAT


class Proc:
    """Readers with a `/proc` of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for number, (group, parent) in {**TREE, THREAD: (CAT, SHELL)}.items():
            self.add(number, group, parent)
        self.readers = Readers(Condition(), directory)

    def add(self, number: int, group: int, parent: int, start: int = 7) -> None:
        """A thread appears."""
        there = self.directory / str(number)
        there.mkdir()
        stat = f"{number} (a b) \xe9) S {parent} " + "0 " * 17 + f"{start} 0\n"
        status = f"Name:\ta b) \xe9\nTgid:\t{group}\nNgid:\t0\nPid:\t{number}\n"
        for name, text in (("status", status), ("stat", stat)):
            (there / name).write_text(text, encoding="latin-1")

    def process(self, number: int) -> Process:
        """A process that is there."""
        found = self.readers.process(number)
        assert found is not None
        return found

    def read(self, number: int, item: Item, path: str = "dir/f") -> None:
        self.readers.read(self.process(number), path, item)

    def happens(self, step: str) -> None:
        """A step of `KNOWN`."""
        who, what, *more = step.split()
        if who == "placed":
            self.readers.placed("dir/f", PLACED[what])
            return
        process = self.process(NAMES[who])
        if what == "reads":
            self.readers.read(process, "dir/f", VERSIONS[more[0]])
        elif what in ("writes", "sees"):
            over, base = (VERSIONS[more[0]], PLACED[more[1]]) if more else (None, Base())
            self.readers.wrote(process, "dir/f", over, base, read=what == "sees")
        else:
            assert what == "makes"
            self.readers.backs_up(process, more[0])

    def replaced(self, number: int, shown: Item) -> Item | Base | None:
        return self.readers.replaced(self.process(number), shown)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.mark.parametrize("number", [0, -1, 99])
def test_a_process_that_is_not_seen_from_here_has_no_notes(proc: Proc, number: int) -> None:
    assert proc.readers.process(number) is None
    proc.readers.read(None, "dir/f", FIRST)
    assert proc.readers.replaced(None, SECOND) is None


def test_a_thread_counts_as_its_process_and_a_number_that_is_used_again_as_another(proc: Proc) -> None:
    first = proc.process(CAT)
    assert proc.process(THREAD) is first
    (proc.directory / str(CAT) / "stat").write_text("20 (b) S 1 " + "0 " * 17 + "8 0\n")
    proc.add(22, CAT, SHELL)
    assert proc.process(22) is not first


#: What has happened (of `writes 2 1`: over version 2, based on 1; `sees`: reads such bytes); who saves, and which version is
#: shown; what that replaces, if it is not the version that is shown.
KNOWN = [
    # The version that was read is replaced, and not the one that is shown.
    ("cat reads 1", "cat 2", FIRST), ("cat reads 1", "cat 1", None),
    # A program knows what those near it have read: a parent, a child, a sibling; with a daemon it has process 1 in common.
    ("cat reads 1", "make 2", FIRST), ("cat reads 1", "shell 2", FIRST), ("shell reads 1", "cc 2", FIRST),
    ("cc reads 1", "make 2", FIRST), ("cc reads 1", "cat 2", FIRST), ("other reads 1", "cat 2", FIRST),
    # The nearest note counts, its own before that of a search that it has started; of equally near ones the newest.
    ("cc reads 1, other reads 2", "make 2", FIRST), ("make reads 1, cc reads 2", "make 2", FIRST),
    ("cc reads 1, cat reads 2", "shell 3", SECOND), ("cc reads 1, cat reads 2, cc reads 3", "shell 3", None),
    # A version of this mount needs no reader, if it is known which one it is.
    ("cat reads 1, placed 2", "cat 2", None), ("cat reads 1, placed 2", "cat 3", FIRST), ("cc reads 1, placed 0", "cc 0", FIRST),
    # Who has written knows what was placed: before that nothing, and what is there is not its own.
    ("cat writes", "cat 2", Base()), ("cat writes, placed 1", "cat 2", PLACED["1"]), ("cat writes, placed 1", "cat 1", None),
    # Who has written what was given up, or has read that again, still knows what it had read.
    ("cat reads 1, cat writes", "cat 1", None), ("cat reads 1, cat writes", "cat 2", FIRST),
    ("cat reads 1, cat writes, placed 2", "cat 3", PLACED["2"]),
    ("cat reads 1, cat writes, cat sees", "cat 1", None), ("cat reads 1, cat writes, cat sees", "cat 2", FIRST),
    # Who has seen bytes that are not sent yet knows the version that they replace.
    ("cat sees 1 1", "cat 1", None), ("cat sees 1 1", "make 2", FIRST), ("cat sees 2 1", "cat 2", Base()),
    # An append, or new content for a file that nobody has read: the next save keeps nothing of that, unless it is kept beside.
    ("cat writes 1 1, cat writes", "cat 1", None), ("cat writes 2 1", "cat 2", Base()),
    # A write tells the others nothing unless one of them has read (4.44): else each `cp` over a file would make a copy.
    ("cat writes, placed 1", "make 2", None), ("cat writes, placed 1, cat writes 1 1", "make 2", None),
    ("cat writes, placed 1, shell reads 1, cat writes", "make 2", PLACED["1"]), ("cat reads 1, cat writes", "make 2", FIRST),
    # A read for a backup shows its program nothing (4.45), unless that version was read before; another new file leaves the note.
    *((f"cat reads 1, cat reads 2, cat makes {path}", "cat 2", FIRST) for path in ("dir/f~", "dir/.~f")),
    *((f"cat reads 1, cat reads 2, cat makes {path}", "cat 2", None) for path in ("dir/f", "dir/g~", "f~", "dir/~f")),
    ("cat reads 1, cat reads 2, cat reads 2, cat makes dir/f~", "cat 2", None),
    ("cat reads 1, cat writes, cat makes dir/f~", "cat 2", FIRST),
]  # fmt: skip


@pytest.mark.parametrize(("past", "save", "replaces"), KNOWN)
def test_what_a_save_replaces(proc: Proc, past: str, save: str, replaces: Item | Base | None) -> None:
    for step in past.split(", "):
        proc.happens(step)
    who, shown = save.split()
    assert proc.replaced(NAMES[who], VERSIONS[shown]) == replaces


def test_a_reader_that_has_ended_still_counts(proc: Proc) -> None:
    proc.read(CC, FIRST)
    for name in ("status", "stat"):
        (proc.directory / str(CC) / name).unlink()
    assert proc.replaced(SHELL, SECOND) == FIRST


@pytest.mark.parametrize("path", ["dir/f", "dir/g"])
def test_a_note_goes_along_when_this_mount_renames_or_changes_an_item(proc: Proc, path: str) -> None:
    """vfs/semantics.md 4.46: a rename or a chmod carries them, for those near the reader too."""
    after = replace(FIRST, path=path, updated_at="1b")
    proc.read(CAT, FIRST)
    proc.read(MAKE, THIRD)
    proc.readers.carry(FIRST, after)
    assert proc.replaced(CAT, after) is None
    assert proc.replaced(CAT, replace(after, updated_at="4")) == after
    assert proc.replaced(OTHER, replace(after, updated_at="4")) == (THIRD if path == "dir/f" else after)
    assert proc.replaced(MAKE, FIRST) == THIRD


def test_a_rename_makes_no_version_one_of_this_mount(proc: Proc) -> None:
    proc.happens("cat writes")
    proc.happens("placed 1")
    there = replace(THIRD, path="dir/g")
    proc.read(MAKE, there, path="dir/g")
    proc.readers.carry(SECOND, replace(SECOND, path="dir/g"))
    proc.readers.carry(FIRST, replace(FIRST, path="dir/h"))
    assert proc.replaced(MAKE, replace(SECOND, path="dir/g")) == there
    assert proc.replaced(CAT, replace(SECOND, path="dir/h")) == PLACED["1"]
    proc.readers.carry(THIRD, replace(THIRD, path="dir/h"))
    assert proc.replaced(CAT, replace(THIRD, path="dir/h")) is None, "what it has written was there"


def test_a_file_that_is_renamed_over_another_makes_writers_of_that_one_know_nothing(proc: Proc) -> None:
    """vfs/semantics.md 4.46: else the file that was renamed there would be kept beside the next save of such a writer."""
    for step in ("cat writes", "make reads 1", "make sees", "placed 1"):
        proc.happens(step)
    proc.readers.carry(replace(THIRD, path="dir/g"), THIRD)
    assert proc.replaced(CAT, THIRD) == FIRST, "by its neighbour, which has read it"
    assert proc.replaced(MAKE, THIRD) == FIRST


def test_notes_go_along_with_a_directory(proc: Proc) -> None:
    """vfs/semantics.md 4.46: what was there before under the new name is forgotten, what is elsewhere stays."""
    proc.happens("cat writes")
    proc.happens("placed 1")
    for who, item, path in ((MAKE, FIRST, "dir/g"), (CAT, SECOND, "new/f"), (OTHER, THIRD, "else/f")):
        proc.read(who, item, path)
    for path in ("else/f", "new/g"):
        proc.readers.placed(path, PLACED["2"])
    proc.readers.renamed_directory("dir", "new")
    assert proc.replaced(CAT, replace(SECOND, path="new/f")) == PLACED["1"]
    assert proc.replaced(MAKE, replace(SECOND, path="new/g")) == FIRST
    assert proc.replaced(OTHER, replace(FIRST, path="else/f")) == THIRD
    assert proc.replaced(OTHER, replace(SECOND, path="else/f")) is None, "that one was placed"
    proc.readers.renamed_directory("other", "new")
    assert proc.replaced(CAT, replace(SECOND, path="new/f")) is None


def test_notes_are_bounded_and_the_oldest_go(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.46: the last notes are kept; those that were forgotten don't count."""
    monkeypatch.setattr("jobfs.state.readers._NOTES", 3)
    monkeypatch.setattr("jobfs.state.readers._READERS", 2)
    for number in (CAT, MAKE, CC):
        proc.read(number, FIRST)
    assert proc.replaced(CAT, SECOND) == FIRST, "by its neighbours: its own note is the oldest of three"

    def kept() -> list[int]:
        paths = (f"other{number}" for number in range(6))
        return [n for n, path in enumerate(paths) if proc.replaced(OTHER, replace(SECOND, path=path))]

    for number in range(3):
        proc.read(OTHER, FIRST, path=f"other{number}")
    assert (proc.replaced(CAT, SECOND), kept()) == (None, [0, 1, 2])
    proc.readers.renamed_directory("none", "")
    assert kept() == []
    for number in range(5):
        proc.read(OTHER, FIRST, path=f"other{number}")
    assert kept() == [2, 3, 4]

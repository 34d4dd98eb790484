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
BACKUP = ("dir/f~", "dir/.~f")

#: Threads by number: their thread group, and the parent of that. A shell with two children, one of which has a child.
SHELL, CAT, MAKE, CC, OTHER = 10, 20, 30, 31, 40
TREE = {
    1: (1, 0),
    SHELL: (SHELL, 1),
    CAT: (CAT, SHELL),
    MAKE: (MAKE, SHELL),
    CC: (CC, MAKE),
    OTHER: (OTHER, 1),
}
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
        (there / "status").write_text(f"Name:\ta b) 1\nTgid:\t{group}\nNgid:\t0\nPid:\t{number}\n")
        (there / "stat").write_text(f"{number} (a b) 1) S {parent} " + "0 " * 17 + f"{start} 0\n")

    def process(self, number: int) -> Process:
        """A process that is there."""
        found = self.readers.process(number)
        assert found is not None
        return found

    def read(self, number: int, item: Item | None, path: str = "dir/f") -> None:
        self.readers.read(self.process(number), path, item)

    def wrote(self, number: int) -> None:
        self.readers.wrote(self.process(number), "dir/f")

    def replaced(self, number: int, shown: Item) -> Item | Base | None:
        return self.readers.replaced(self.process(number), shown)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_a_thread_counts_as_its_process(proc: Proc) -> None:
    assert proc.process(THREAD) is proc.process(CAT)


@pytest.mark.parametrize("number", [0, -1, 99])
def test_a_process_that_is_not_seen_from_here_has_no_notes(proc: Proc, number: int) -> None:
    assert proc.readers.process(number) is None
    proc.readers.read(None, "dir/f", FIRST)
    assert proc.readers.replaced(None, SECOND) is None


def test_a_number_that_is_used_again_is_another_process(proc: Proc) -> None:
    first = proc.process(CAT)
    (proc.directory / str(CAT) / "stat").write_text("20 (b) S 1 " + "0 " * 17 + "8 0\n")
    assert proc.readers.process(THREAD) is not first


def test_the_version_that_was_read_is_replaced_and_not_the_one_that_is_shown(proc: Proc) -> None:
    proc.read(CAT, FIRST)
    assert proc.replaced(CAT, SECOND) == FIRST
    assert proc.replaced(CAT, FIRST) is None


@pytest.mark.parametrize(
    ("reader", "saver", "known"),
    [
        (CAT, MAKE, True), (CAT, SHELL, True), (SHELL, CC, True), (CC, MAKE, True), (CC, CAT, True), (OTHER, CAT, True),
    ],
)  # fmt: skip
def test_a_program_knows_what_those_near_it_have_read(
    proc: Proc, reader: int, saver: int, known: bool
) -> None:
    """A child, a parent, a sibling; a daemon has only process 1 in common with a shell."""
    proc.read(reader, FIRST)
    assert (proc.replaced(saver, SECOND) == FIRST) is known


def test_the_nearest_note_counts_and_of_equally_near_ones_the_newest(proc: Proc) -> None:
    proc.read(CC, FIRST)
    proc.read(OTHER, SECOND)
    assert proc.replaced(MAKE, SECOND) == FIRST, (
        "what it has started is nearer than what it has process 1 in common with"
    )
    proc.read(CAT, SECOND)
    assert proc.replaced(SHELL, THIRD) == SECOND
    proc.read(CC, THIRD)
    assert proc.replaced(SHELL, THIRD) is None


def test_its_own_note_counts_before_that_of_a_search_which_it_has_started(proc: Proc) -> None:
    proc.read(MAKE, FIRST)
    proc.read(CC, SECOND)
    assert proc.replaced(MAKE, SECOND) == FIRST


def test_a_reader_that_has_ended_still_counts(proc: Proc) -> None:
    proc.read(CC, FIRST)
    for name in ("status", "stat"):
        (proc.directory / str(CC) / name).unlink()
    assert proc.replaced(SHELL, SECOND) == FIRST


def test_a_version_of_this_mount_needs_no_reader(proc: Proc) -> None:
    proc.read(CAT, FIRST)
    proc.readers.placed("dir/f", Base.of(SECOND))
    assert proc.replaced(CAT, SECOND) is None
    assert proc.replaced(CAT, THIRD) == FIRST


def test_a_program_that_has_written_knows_what_was_placed(proc: Proc) -> None:
    proc.wrote(CAT)
    assert proc.replaced(CAT, SECOND) == Base(), "nothing of it was placed, and what is there is not its own"
    placed = Base.of(FIRST, sha256="0" * 64, young=True)
    proc.readers.placed("dir/f", placed)
    assert proc.replaced(CAT, SECOND) == placed
    assert proc.replaced(CAT, FIRST) is None


def test_a_program_that_has_written_what_was_given_up_still_knows_what_it_had_read(proc: Proc) -> None:
    proc.read(CAT, FIRST)
    proc.wrote(CAT)
    assert proc.replaced(CAT, FIRST) is None
    assert proc.replaced(CAT, SECOND) == FIRST
    proc.readers.placed("dir/f", Base.of(SECOND))
    assert proc.replaced(CAT, THIRD) == Base.of(SECOND)


def test_a_program_that_reads_what_was_written_here_still_knows_what_it_had_read(proc: Proc) -> None:
    proc.read(CAT, FIRST)
    proc.wrote(CAT)
    proc.read(CAT, None)
    assert proc.replaced(CAT, FIRST) is None
    assert proc.replaced(CAT, SECOND) == FIRST


def test_a_program_knows_the_version_that_it_has_replaced(proc: Proc) -> None:
    """An append, or new content for a file that nobody has read: its own next save keeps nothing of that."""
    proc.readers.wrote(proc.process(CAT), "dir/f", FIRST, Base.of(FIRST))
    proc.wrote(CAT)
    assert proc.replaced(CAT, FIRST) is None
    proc.readers.wrote(proc.process(MAKE), "dir/f", SECOND, Base.of(FIRST))
    assert proc.replaced(MAKE, SECOND) == Base(), "that one is kept beside"


def test_a_write_tells_the_others_nothing_unless_one_of_them_has_read(proc: Proc) -> None:
    """vfs/semantics.md 4.44: else each `cp` of a shell over a file that nobody ever reads would make a copy."""
    proc.wrote(CAT)
    proc.readers.placed("dir/f", Base.of(FIRST))
    assert proc.replaced(MAKE, SECOND) is None
    proc.readers.wrote(proc.process(CAT), "dir/f", FIRST, Base.of(FIRST))
    assert proc.replaced(MAKE, SECOND) is None
    proc.read(SHELL, FIRST)
    proc.wrote(CAT)
    assert proc.replaced(MAKE, SECOND) == Base.of(FIRST)


@pytest.mark.parametrize("backup", BACKUP)
def test_a_read_for_a_backup_shows_its_program_nothing(proc: Proc, backup: str) -> None:
    proc.read(CAT, FIRST)
    proc.read(CAT, SECOND)
    proc.readers.backs_up(proc.process(CAT), backup)
    assert proc.replaced(CAT, SECOND) == FIRST


@pytest.mark.parametrize("path", ["dir/f", "dir/g~", "f~", "dir/~f"])
def test_another_new_file_leaves_the_note(proc: Proc, path: str) -> None:
    proc.read(CAT, FIRST)
    proc.read(CAT, SECOND)
    proc.readers.backs_up(proc.process(CAT), path)
    assert proc.replaced(CAT, SECOND) is None


def test_a_version_that_was_read_before_its_backup_stays_read(proc: Proc) -> None:
    proc.read(CAT, FIRST)
    proc.read(CAT, SECOND)
    proc.read(CAT, SECOND)
    proc.readers.backs_up(proc.process(CAT), BACKUP[0])
    assert proc.replaced(CAT, SECOND) is None


@pytest.mark.parametrize("path", ["dir/f", "dir/g"])
def test_a_note_goes_along_when_this_mount_renames_or_changes_an_item(proc: Proc, path: str) -> None:
    """vfs/semantics.md 4.46: a rename or a chmod carries them."""
    after = replace(FIRST, path=path, updated_at="1b")
    proc.read(CAT, FIRST)
    proc.read(MAKE, THIRD)
    proc.readers.carry(FIRST, after)
    assert proc.replaced(CAT, after) is None
    assert proc.replaced(CAT, replace(after, updated_at="4")) == after
    assert proc.replaced(MAKE, FIRST) == THIRD


def test_a_rename_makes_no_version_one_of_this_mount(proc: Proc) -> None:
    proc.wrote(CAT)
    proc.readers.placed("dir/f", Base.of(FIRST))
    proc.readers.carry(SECOND, replace(SECOND, path="dir/g"))
    proc.readers.carry(FIRST, replace(FIRST, path="dir/h"))
    assert proc.replaced(CAT, replace(SECOND, path="dir/g")) is None
    assert proc.replaced(CAT, replace(SECOND, path="dir/h")) == Base.of(replace(FIRST, path="dir/h"))


def test_a_file_that_is_renamed_over_another_makes_writers_of_that_one_know_nothing(proc: Proc) -> None:
    """vfs/semantics.md 4.46: else the file that was renamed there would be kept beside the next save of such a writer."""
    proc.wrote(CAT)
    proc.read(MAKE, FIRST)
    proc.readers.placed("dir/f", Base.of(FIRST))
    proc.readers.carry(replace(THIRD, path="dir/g"), THIRD)
    assert proc.replaced(CAT, THIRD) == FIRST, "by its neighbour, which has read it"
    assert proc.replaced(MAKE, THIRD) == FIRST


def test_notes_go_along_with_a_directory(proc: Proc) -> None:
    """vfs/semantics.md 4.46: what was there before under the new name is forgotten."""
    proc.wrote(CAT)
    proc.readers.placed("dir/f", Base.of(FIRST))
    proc.read(MAKE, FIRST, path="dir/g")
    proc.read(CAT, SECOND, path="new/f")
    proc.readers.renamed_directory("dir", "new")
    assert proc.replaced(CAT, replace(SECOND, path="new/f")) == Base.of(FIRST)
    assert proc.replaced(MAKE, replace(SECOND, path="new/g")) == FIRST
    proc.readers.renamed_directory("other", "new")
    assert proc.replaced(CAT, replace(SECOND, path="new/f")) is None


def test_notes_are_bounded_and_the_oldest_go(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.46: the last notes are kept."""
    monkeypatch.setattr("jobfs.state.readers._NOTES", 3)
    monkeypatch.setattr("jobfs.state.readers._READERS", 2)
    for number in (CAT, MAKE, CC):
        proc.read(number, FIRST)
    assert proc.replaced(CAT, SECOND) == FIRST, "by its neighbours: its own note is the oldest of three"
    for number in range(3):
        proc.read(OTHER, FIRST, path=f"other{number}")
    assert proc.replaced(CAT, SECOND) is None

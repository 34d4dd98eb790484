"""Which version a program has read (vfs/semantics.md 4, What a save replaces)."""

from __future__ import annotations

import itertools
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Condition

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.nodes import Item, Kind
from jobfs.state.processes import Process
from jobfs.state.read_log import ReadLog, ReadRecords
from jobfs.state.records import Base

from .proc import FakeProc

FIRST = Item("i", Kind.FILE, "dir/f", updated_at="1", size=1)
SECOND, THIRD = replace(FIRST, updated_at="2"), replace(FIRST, updated_at="3")
VERSIONS = {"0": replace(FIRST, updated_at=""), "1": FIRST, "2": SECOND, "3": THIRD}
#: A version that this mount has placed.
PLACED = {number: Base.from_item(item, sha256="0" * 64) for number, item in VERSIONS.items()}

#: Threads by number: their thread group, and the parent of that. A shell with two children, one of which has a child.
SHELL, CAT, MAKE, CC, OTHER = 10, 20, 30, 31, 40
STRANGER = 50  # without a common ancestor, as from another container
TREE = {1: (1, 0), SHELL: (SHELL, 1), OTHER: (OTHER, 1), STRANGER: (STRANGER, 0)}
TREE |= {CAT: (CAT, SHELL), MAKE: (MAKE, SHELL), CC: (CC, MAKE)}
NAMES = {"shell": SHELL, "cat": CAT, "make": MAKE, "cc": CC, "other": OTHER, "stranger": STRANGER}
THREAD = 21  # of CAT


class Proc(FakeProc):
    """Readers with a `/proc` of their own."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        for number, (group, parent) in {**TREE, THREAD: (CAT, SHELL)}.items():
            self.add(number, parent, group=group)
        self.log = directory / "notes"
        self.readers = ReadLog(Condition(), directory, self.log)
        #: How often the mount is started again before each question.
        self.restarts = 0

    def restart(self) -> None:
        """The mount ends, and the next one begins."""
        self.readers.close()
        self.readers = ReadLog(Condition(), self.directory, self.log)

    def ends(self, number: int) -> None:
        """A process ends, and this is found out."""
        self.end(number)
        self.settle()

    def settle(self) -> None:
        """All processes have been checked for their end."""
        for _ in range(40):
            self.readers.process_of(next(self.strangers))

    def short(self, number: int, item: Item, path: str = "dir/f", parent: int = SHELL) -> None:
        """A process starts, reads, and ends."""
        self.add(number, parent)
        self.read(number, item, path)
        self.end(number)

    @property
    def notes(self) -> ReadRecords:
        return self.readers._notes

    @property
    def known(self) -> list[Process]:
        return [*self.readers._processes._known.values()]

    def has(self, number: int, prefix: str) -> list[int]:
        """The files `prefix<number>` of which a process, and none near it, has a note."""
        of = {file: replace(SECOND, path=f"{prefix}{file}") for file in range(30)}
        return [file for file, shown in of.items() if self.replaced(number, shown) == FIRST]

    def process(self, number: int) -> Process:
        """A process that is there."""
        found = self.readers.process_of(number)
        assert found is not None
        return found

    def read(self, number: int, item: Item, path: str = "dir/f") -> None:
        self.readers.note_read(self.process(number), path, item)

    def happens(self, steps: str) -> None:
        """Carry out steps as `KNOWN` has them, separated by commas."""
        for step in steps.split(", "):
            self._carry_out(step)

    def _carry_out(self, step: str) -> None:
        who, what, *more = step.split()
        if who == "placed":
            self.readers.note_placed("dir/f", PLACED[what])
            return
        process = self.process(NAMES[who])
        if what == "reads":
            version, path = (*more, "dir/f")[:2]
            self.readers.note_read(process, path, VERSIONS[version])
        elif what == "misses":
            self.readers.note_missing(NAMES[who], "dir/f")
        elif what in ("writes", "sees"):
            over, base = (VERSIONS[more[0]], PLACED[more[1]]) if more else (None, Base())
            self.readers.note_write(process, "dir/f", over, base, opened_for_read=what == "sees")
        else:
            assert what == "makes"
            self.readers.ignore_backup_read(process, more[0])

    def replaced(self, number: int, shown: Item) -> Item | Base | None:
        for _ in range(self.restarts):
            self.restart()
        return self.readers.version_read_by(self.process(number), shown)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture(params=range(3), ids=["one mount", "the next mount", "the mount after that"])
def later(request: pytest.FixtureRequest, tmp_path: Path) -> Proc:
    """Readers whose questions are asked of this mount, or a later one: of one that repeats the log, or a compacted log."""
    proc = Proc(tmp_path)
    proc.restarts = request.param
    return proc


Bound = Callable[..., None]


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> Bound:
    """Set bounds of the notes, which a test reaches: of all, and of those of one process."""

    def bound(*, notes: int, own: int) -> None:
        for name, value in {"_NOTES": notes, "_OWN": own}.items():
            monkeypatch.setattr(f"jobfs.state.read_log.{name}", value)

    return bound


@pytest.mark.parametrize(
    ("reader", "base"), [(None, Base()), (CAT, SECOND), (SHELL, SECOND), (OTHER, SECOND)]
)
def test_a_restore_replaces_only_a_version_read_by_a_related_program(
    later: Proc, reader: int | None, base: Base | Item
) -> None:
    """vfs/semantics.md 4.54, 4.63: else what is there stays beside, which otherwise would be replaced as what is shown."""
    if reader is not None:
        later.read(reader, SECOND)
    assert later.replaced(MAKE, THIRD) == (SECOND if reader else None)
    later.readers.note_unread_replace(later.process(MAKE), "dir/f")
    assert later.replaced(MAKE, THIRD) == base
    later.readers.note_unread_replace(None, "dir/f")


def test_a_placed_version_with_a_racy_time_is_recognised_by_bytes(later: Proc) -> None:
    """vfs/semantics.md 4.44, 4.63, save/protocol.md R2: what a look has shown may be what the job has written since."""
    racy = replace(PLACED["1"], racy=True)
    later.readers.note_placed("dir/f", racy)
    assert later.replaced(CAT, FIRST) == racy
    assert later.readers.version_read_by(None, FIRST) == racy, "for any process"
    moved = replace(FIRST, path="dir/g")
    later.readers.carry_notes(FIRST, moved)
    assert later.replaced(CAT, moved) == racy, "under its new name, too"


def rename(proc: Proc, before: Item, after: Item) -> bool:
    """CAT renames a file; return whether CAT had, or has got, a note to be carried."""
    has_note = proc.readers.inherit_note(proc.process(CAT), before.path)
    proc.readers.carry_notes(before, after)
    return has_note


ANOTHER = replace(SECOND, id="another")


@pytest.mark.parametrize(("past", "before", "replaces"), [
    # The answer to the rename may show what the job has written since, or another file of the job.
    ("cat reads 1", SECOND, FIRST), ("shell reads 1", SECOND, FIRST),
    ("cat reads 1", ANOTHER, FIRST), ("shell reads 1", ANOTHER, FIRST),
    # It has written the file that had the name before.
    ("cat writes, placed 1", ANOTHER, Base()),
    # The note of the source, though it is that of a relative, replaces the program's own at the new name.
    ("shell reads 1, cat reads 3 new/f", FIRST, None),
])  # fmt: skip
def test_a_program_that_renames_a_file_keeps_its_note_of_it(
    later: Proc, past: str, before: Item, replaces: Item | Base | None
) -> None:
    """vfs/semantics.md 4.46, 4.63."""
    later.happens(past)
    after = replace(before, path="new/f")
    assert rename(later, before, after)
    assert later.replaced(CAT, after) == replaces


def test_renaming_a_version_that_was_never_read_inherits_no_note(proc: Proc) -> None:
    """vfs/semantics.md 4.46: it knows the version that is renamed, which the answer to its rename shows."""
    proc.read(SHELL, THIRD, path="new/f")
    assert not rename(proc, FIRST, replace(SECOND, path="new/f"))
    assert not proc.readers.inherit_note(None, "dir/f")


@pytest.mark.parametrize("number", [0, -1, 99])
def test_a_process_outside_the_namespace_has_no_notes(proc: Proc, number: int) -> None:
    """vfs/semantics.md 4.47: as all processes outside of the mount's own namespace, which the kernel calls 0."""
    assert proc.readers.process_of(number) is None
    proc.readers.note_read(None, "dir/f", FIRST)
    assert proc.readers.version_read_by(None, SECOND) is None


def test_threads_share_their_process_and_a_reused_pid_is_a_new_process(proc: Proc) -> None:
    first = proc.process(CAT)
    assert proc.process(THREAD) is first
    proc.add(CAT, 1, start=8)
    proc.add(22, SHELL, group=CAT)
    assert proc.process(22) is not first


#: What has happened (of `writes 2 1`: over version 2, based on 1; `sees`: reads such bytes); who saves, and which version is
#: shown; what that replaces, if it is not the version that is shown.
KNOWN = [
    # The version that was read is replaced, and not the one that is shown.
    ("cat reads 1", "cat 2", FIRST), ("cat reads 1", "cat 1", None),
    # A program knows what those near it have read: a parent, a child, a sibling; with a daemon it has process 1 in common.
    ("cat reads 1", "make 2", FIRST), ("cat reads 1", "shell 2", FIRST), ("shell reads 1", "cc 2", FIRST),
    ("cc reads 1", "make 2", FIRST), ("cc reads 1", "cat 2", FIRST), ("other reads 1", "cat 2", FIRST),
    # Who has no common ancestor has shown nothing to this program (4.43).
    ("stranger reads 1", "cat 2", None), ("stranger reads 1, cat reads 2", "make 3", SECOND),
    # A child of process 1, such as one after a double fork, knows what was read last below that (4.48).
    ("cat reads 1", "other 2", FIRST), ("cat reads 1, shell reads 2", "other 2", None),
    ("cat reads 1, shell reads 2", "other 3", SECOND),
    # The nearest note counts, its own before that of a search that it has started; of equally near ones the newest.
    ("cc reads 1, other reads 2", "make 2", FIRST), ("make reads 1, cc reads 2", "make 2", FIRST),
    ("cc reads 1, cat reads 2", "shell 3", SECOND), ("cc reads 1, cat reads 2, cc reads 3", "shell 3", None),
    # Who has only written knows what its children have read since; who has read itself, only that.
    ("cat writes 1 1, cc reads 1, make writes 1 1, placed 1, cc reads 2", "make 2", None),
    ("make writes 1 1, cc reads 2", "make 3", SECOND), ("cc reads 2, make writes 2 2", "make 3", SECOND),
    ("make reads 1, make writes 1 1, cc reads 2", "make 2", FIRST), ("make sees 1 1, cc reads 2", "make 2", FIRST),
    ("make writes 1 1, cc writes 2 2", "make 2", FIRST), ("make writes 1 1, shell reads 2", "make 2", FIRST),
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
    ("cat reads 1, cc writes 2 2", "make 3", SECOND),
    # A write is no note for the others unless one of them has read (4.44): else each `cp` over a file would make a copy.
    ("cat writes, placed 1", "make 2", None), ("cat writes, placed 1, cat writes 1 1", "make 2", None),
    ("cat writes, placed 1, shell reads 1, cat writes", "make 2", PLACED["1"]), ("cat reads 1, cat writes", "make 2", FIRST),
    ("cc reads 1, make writes", "cat 2", Base()),
    # A read for a backup shows its program nothing (4.45), unless that version was read before; another new file leaves the note.
    *((f"cat reads 1, cat reads 2, cat makes {path}", "cat 2", FIRST) for path in ("dir/f~", "dir/.~f")),
    *((f"cat reads 1, cat reads 2, cat makes {path}", "cat 2", None) for path in ("dir/f", "dir/g~", "f~", "dir/~f")),
    ("cat reads 1, cat reads 2, cat reads 2, cat makes dir/f~", "cat 2", None),
    ("cat reads 1, cat writes, cat makes dir/f~", "cat 2", FIRST),
]  # fmt: skip


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
@pytest.mark.parametrize(("past", "save", "replaces"), KNOWN)
def test_a_save_replaces_the_version_of_the_closest_reader(
    later: Proc, past: str, save: str, replaces: Item | Base | None, ended: bool
) -> None:
    """vfs/semantics.md 4.43, 4.48, 4.63: nothing is another for a program that runs because a relative of it has ended."""
    later.happens(past)
    who, shown = save.split()
    if ended:
        saver = [int(process.key[0]) for process in later.process(NAMES[who]).self_and_ancestors()]
        for number in sorted({*NAMES.values()} - {*saver}, reverse=True):
            later.end(number)
        later.settle()
    assert later.replaced(NAMES[who], VERSIONS[shown]) == replaces


@pytest.mark.parametrize(("past", "save", "replaces"), [
    ("make misses", "make 2", Base()), ("make misses", "cc 2", None), ("make misses", "shell 2", None),
    ("make misses, make reads 2", "make 2", None), ("make misses, cat reads 2", "make 2", None),
    ("cat reads 1, make misses", "make 2", FIRST),
    ("make misses, placed 2", "make 2", None), ("make misses, placed 1", "make 2", Base()),
    ("make misses, make writes, placed 1", "make 2", PLACED["1"]),
])  # fmt: skip
def test_a_program_that_found_a_name_missing_replaces_only_what_was_read_since(
    proc: Proc, past: str, save: str, replaces: Item | Base | None
) -> None:
    """vfs/semantics.md 4.62: by it or near it, or was placed by this mount."""
    proc.happens(past)
    who, shown = save.split()
    assert proc.replaced(NAMES[who], VERSIONS[shown]) == replaces
    assert proc.replaced(NAMES[who], replace(VERSIONS[shown], path="dir/other")) is None
    proc.readers.note_missing(0, "dir/f")  # outside of the namespace (4.47)


class Twice(Proc):
    """The notes of ended processes pass to others here, and stay where they are in `kept`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.passed, self.kept = self.readers, ReadLog(Condition(), directory)
        self.kept._processes.find_ended = list  # type: ignore[method-assign]
        self.numbers = itertools.count(100)
        self.running = [1, *NAMES.values()]
        for number in self.running:
            self.of(number)

    def of(self, number: int) -> tuple[Process, Process]:
        passed, kept = self.passed.process_of(number), self.kept.process_of(number)
        assert passed is not None
        assert kept is not None
        return passed, kept

    def act(self, what: str, which: int, version: str) -> None:
        number = self.running[which % len(self.running)]
        if what == "starts":
            child = next(self.numbers)
            self.add(child, number)
            self.running.append(child)
            if version != "0":
                self.of(child)
        elif what == "ends" and number != 1:
            self.end(number)
            self.running.remove(number)
            for child in self.running:
                self.adopt(child, number)
        elif what != "ends":
            for readers, process in zip((self.passed, self.kept), self.of(number), strict=True):
                if what == "reads":
                    readers.note_read(process, "dir/f", VERSIONS[version])
                else:
                    readers.note_write(
                        process, "dir/f", VERSIONS[version], PLACED[version], opened_for_read=what == "sees"
                    )

    def adopt(self, child: int, parent: int) -> None:
        """A child of a process that has ended is one of process 1."""
        stat = self.directory / str(child) / "stat"
        text = stat.read_text(encoding="latin-1")
        stat.write_text(text.replace(f" S {parent} ", " S 1 "), encoding="latin-1")

    def compare(self) -> None:
        for number, (version, item) in product(self.running, VERSIONS.items()):
            passed, kept = self.of(number)
            assert self.passed.version_read_by(passed, item) == self.kept.version_read_by(kept, item), (
                number,
                version,
            )


WHAT = st.sampled_from(("starts", "ends", "ends", "reads", "reads", "writes", "sees"))


@given(acts=st.lists(st.tuples(WHAT, st.integers(0, 99), st.sampled_from([*VERSIONS])), max_size=40))
def test_notes_of_a_running_process_do_not_change_when_others_end(
    acts: list[tuple[str, int, str]],
) -> None:
    """vfs/semantics.md 4.43: as if each note stayed with its process for ever."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        both = Twice(Path(directory))
        for act in acts:
            both.act(*act)
            both.readers.process_of(next(both.strangers))
        both.settle()
        both.compare()
        assert both.notes.count <= 2 * len(both.known)


def test_an_ended_process_is_remembered_while_its_descriptors_are_open(proc: Proc) -> None:
    """vfs/semantics.md 4.42: a descriptor that it has handed on still replaces what it has read."""
    proc.read(CC, FIRST)
    cc = proc.process(CC)
    proc.readers.hold_process(cc)
    proc.ends(CC)
    proc.readers._hand_notes_to_parent(cc)  # as if it had opened the file after it was checked
    proc.read(MAKE, SECOND)
    assert proc.readers.version_read_by(cc, SECOND) == FIRST
    proc.readers.release_process(cc)
    proc.settle()
    assert proc.notes.count == 2, "of make, and of its children"
    assert proc.replaced(MAKE, THIRD) == SECOND


def test_a_late_note_of_an_ended_process_is_passed_on(proc: Proc) -> None:
    """vfs/semantics.md 4.46: a program that was killed may end before its call does."""
    cc = proc.process(CC)
    proc.ends(CC)
    proc.readers.note_read(cc, "dir/f", FIRST)
    proc.settle()
    proc.read(MAKE, SECOND)
    proc.ends(MAKE)
    assert proc.notes.count == 1
    assert proc.replaced(SHELL, THIRD) == SECOND


def test_an_ended_process_is_remembered_while_a_descendant_runs(proc: Proc) -> None:
    """vfs/semantics.md 4.43: a child that opened something before its parent ended knows what that has read."""
    proc.read(MAKE, FIRST)
    proc.process(CC)
    proc.ends(MAKE)
    proc.read(CAT, SECOND)
    assert proc.replaced(CC, SECOND) == FIRST
    proc.ends(CC)
    assert proc.replaced(SHELL, THIRD) == SECOND
    assert proc.notes.count == 2


@pytest.mark.parametrize("path", ["dir/f", "dir/g"])
def test_a_note_is_carried_over_when_this_mount_changes_the_item(later: Proc, path: str) -> None:
    """vfs/semantics.md 4.46, 4.63: a rename or a chmod carries them, for those near the reader too."""
    after = replace(FIRST, path=path, updated_at="1b")
    later.read(CAT, FIRST)
    later.read(MAKE, THIRD)
    later.readers.carry_notes(FIRST, after)
    assert later.replaced(CAT, after) is None
    assert later.replaced(CAT, replace(after, updated_at="4")) == after
    assert later.replaced(OTHER, replace(after, updated_at="4")) == THIRD
    assert later.replaced(MAKE, FIRST) == THIRD


def test_a_rename_does_not_make_a_version_an_own_one(proc: Proc) -> None:
    proc.happens("cat writes, placed 1")
    there = replace(THIRD, path="dir/g")
    proc.read(MAKE, there, path="dir/g")
    proc.readers.carry_notes(SECOND, replace(SECOND, path="dir/g"))
    proc.readers.carry_notes(FIRST, replace(FIRST, path="dir/h"))
    assert proc.replaced(MAKE, replace(SECOND, path="dir/g")) == there
    assert proc.replaced(CAT, replace(SECOND, path="dir/h")) == PLACED["1"]
    another = replace(THIRD, id="another")
    proc.readers.carry_notes(another, replace(another, path="dir/h"))
    assert proc.replaced(CAT, replace(another, path="dir/h")) is None, "what it has written was there"


def test_a_rename_over_a_file_drops_the_notes_of_its_writers(later: Proc) -> None:
    """vfs/semantics.md 4.46, 4.63: else the file that was renamed there would be kept beside the next save of such a writer."""
    later.happens("cat writes, make reads 1, make sees, placed 1")
    later.readers.carry_notes(replace(THIRD, path="dir/g"), THIRD)
    assert later.replaced(CAT, THIRD) == FIRST, "by its neighbour, which has read it"
    assert later.replaced(MAKE, THIRD) == FIRST


def test_notes_move_with_a_directory(later: Proc) -> None:
    """vfs/semantics.md 4.46, 4.63: what was there before under the new name is forgotten, what is elsewhere stays."""
    later.happens("cat writes, placed 1")
    for who, item, path in ((MAKE, FIRST, "dir/g"), (CAT, SECOND, "new/f"), (OTHER, THIRD, "else/f")):
        later.read(who, item, path)
    for path in ("else/f", "new/g"):
        later.readers.note_placed(path, PLACED["2"])
    later.readers.move_notes_below("dir", "new")
    assert later.replaced(CAT, replace(SECOND, path="new/f")) == PLACED["1"]
    assert later.replaced(MAKE, replace(SECOND, path="new/g")) == FIRST
    assert later.replaced(OTHER, replace(FIRST, path="else/f")) == THIRD
    assert later.replaced(OTHER, replace(SECOND, path="else/f")) is None, "that one was placed"
    later.readers.move_notes_below("other", "new")
    assert later.replaced(CAT, replace(SECOND, path="new/f")) is None


def test_a_program_that_ends_between_two_mounts_is_remembered(proc: Proc) -> None:
    """vfs/semantics.md 4.63: its notes pass to the nearest of its ancestors that runs."""
    proc.read(CC, FIRST)
    proc.readers.close()
    for number in (CC, MAKE):
        proc.end(number)
    proc.restart()
    assert proc.replaced(SHELL, SECOND) == FIRST
    assert proc.replaced(OTHER, SECOND) == FIRST
    proc.end(SHELL)
    proc.add(CAT, 1)
    proc.read(CAT, THIRD)
    proc.restart()
    assert proc.replaced(OTHER, SECOND) == THIRD, "of process 1, what was read last"


def test_a_backup_is_recognised_by_the_next_mount(proc: Proc) -> None:
    """vfs/semantics.md 4.45, 4.63: it has read the newer version only to copy it."""
    proc.happens("cat reads 1, cat reads 2")
    proc.restart()
    proc.happens("cat makes dir/f~")
    assert proc.replaced(CAT, SECOND) == FIRST


@pytest.mark.parametrize(
    "line", ['["seen", "dir/f"]', '["placed"]', "[]", "5", '["placed", {"base": 5}, {}]', '["note']
)
def test_an_entry_that_is_not_understood_is_left_out(proc: Proc, line: str) -> None:
    """Another version of jobfs has written it, or a full disk has taken a part of it."""
    proc.read(CAT, FIRST)
    with proc.log.open("a") as log:
        log.write(f"\n{line}")
    proc.read(MAKE, THIRD)
    proc.restart()
    assert proc.replaced(CAT, SECOND) == FIRST
    assert proc.replaced(MAKE, SECOND) == THIRD


def test_the_log_of_notes_is_bounded(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.63, 6.15: a log that is read again and again costs a bounded file, and no note."""
    monkeypatch.setattr("jobfs.state.note_log._GROWTH", 5000)
    proc.restart()
    proc.read(OTHER, FIRST)
    for number in range(500):
        proc.read(CAT, replace(SECOND, updated_at=f"{number}"))
        assert proc.log.stat().st_size < 7000
    for _ in range(100):
        proc.happens("cat writes")
        proc.read(CAT, replace(SECOND, updated_at="499"))
    size = proc.log.stat().st_size
    proc.read(CAT, replace(SECOND, updated_at="499"))
    assert proc.log.stat().st_size == size, "it is the newest note already"
    proc.restart()
    assert proc.replaced(OTHER, THIRD) == FIRST
    assert proc.replaced(CAT, THIRD) == replace(SECOND, updated_at="499")


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_the_next_mount_keeps_the_bounds_of_the_notes(proc: Proc, bound: Bound, ended: bool) -> None:
    """vfs/semantics.md 4.46, 4.63: a log with more notes than may be kept leads to evictions."""
    for number in range(20):
        proc.read(MAKE, FIRST, path=f"file{number}")
    if ended:
        proc.end(MAKE)
    bound(notes=5, own=5)
    proc.restart()
    assert proc.notes.count == 5
    assert proc.has(SHELL, "file") == [15, 16, 17, 18, 19]


def test_short_lived_readers_evict_no_note(in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vfs/semantics.md 4.43, 4.46: an editor still keeps the job's version; notes, processes and memory are bounded."""
    monkeypatch.setattr("jobfs.state.processes._THREADS", 16)
    proc = Proc(in_memory)
    proc.read(OTHER, FIRST)
    for number in range(1000, 12_000):
        proc.short(number, SECOND)
    tracemalloc.start()
    try:
        for number in range(12_000, 13_000):
            proc.short(number, SECOND)
        here = tracemalloc.Filter(True, "*/jobfs/state/*")
        grown = tracemalloc.take_snapshot().filter_traces([here]).statistics("filename")
    finally:
        tracemalloc.stop()
    assert sum(each.size for each in grown) < 20_000
    assert proc.replaced(OTHER, SECOND) == FIRST
    assert proc.replaced(SHELL, THIRD) == SECOND
    assert proc.notes.count < 20
    assert len(proc.known) < 30


def test_a_process_evicts_its_own_notes_and_then_keeps_both(proc: Proc, bound: Bound) -> None:
    """vfs/semantics.md 4.46: a program that has read very many files; of others nothing is evicted, nor do they notice."""
    bound(notes=6, own=2)
    proc.read(OTHER, FIRST)
    proc.short(60, FIRST, path="short", parent=OTHER)
    for number in (*range(6), 3, 6, 7):
        proc.read(MAKE, FIRST, path=f"file{number}")
    assert proc.notes.count == 6
    assert proc.has(MAKE, "file") == [3, 5, 6, 7], "those that it has read last"
    assert proc.replaced(MAKE, replace(SECOND, path="file4")) == Base(), "it has read some version"
    assert proc.replaced(MAKE, replace(SECOND, path="file5")) == FIRST
    assert proc.replaced(OTHER, SECOND) == FIRST
    assert proc.replaced(OTHER, replace(SECOND, path="short")) == FIRST
    assert proc.replaced(OTHER, replace(SECOND, path="none")) is None
    # One that has not had its share takes the place of one that has had more.
    for number in range(2):
        proc.read(CC, FIRST, path=f"other{number}")
    assert proc.replaced(CC, replace(SECOND, path="other0")) == FIRST
    assert proc.replaced(OTHER, SECOND) == FIRST
    assert proc.has(MAKE, "file") == [6, 7]


def test_a_process_keeps_its_share_of_notes(proc: Proc, bound: Bound) -> None:
    """vfs/semantics.md 4.46: who has more loses its own note; if nobody has, the one that has been idle longest."""
    bound(notes=10, own=2)
    proc.read(OTHER, FIRST, path="other0")
    for number in range(6):
        proc.read(MAKE, FIRST, path=f"make{number}")
    for number in range(20):
        proc.read(CAT, FIRST, path=f"cat{number}")
    assert proc.has(MAKE, "make") == [0, 1, 2, 3, 4, 5]
    assert proc.has(CAT, "cat") == [17, 18, 19]
    for who, number in ((1, 0), (CC, 0), (SHELL, 0), (1, 1), (CC, 1)):
        proc.read(who, FIRST, path=f"{who}-{number}")
    assert (proc.has(MAKE, "make"), proc.has(CAT, "cat")) == ([4, 5], [18, 19])
    assert proc.has(OTHER, "other") == [0]
    proc.read(SHELL, FIRST, path="last")
    assert (proc.has(MAKE, "make"), proc.has(CAT, "cat")) == ([4, 5], [18, 19])
    assert proc.has(OTHER, "other") == [], "there is no room for all shares"
    assert proc.notes.count == 10


@pytest.mark.parametrize("own", [1, 3])
def test_notes_of_ended_processes_are_evicted_first(proc: Proc, bound: Bound, own: int) -> None:
    """vfs/semantics.md 4.46: who was there before, and knows of no read of its own or of its children, keeps both."""
    bound(notes=3, own=own)
    proc.read(OTHER, FIRST)
    proc.process(CAT)
    for number in range(60, 65):
        proc.short(number, FIRST, path=f"file{number}")
        proc.settle()
    assert proc.notes.count == 3
    assert proc.replaced(OTHER, SECOND) == FIRST, "its own note stays"
    proc.add(70, 1)
    shown = [replace(SECOND, path=f"file{file}") for file in range(60, 65)]
    kept = [FIRST, FIRST]
    assert [proc.replaced(SHELL, item) for item in shown] == [Base()] * 3 + kept
    assert [proc.replaced(70, item) for item in shown] == [None] * 3 + kept, "it has begun since"
    assert proc.replaced(CAT, shown[-1]) == Base(), "a note of its own may have been evicted"
    proc.happens("cat writes 1 1")
    assert proc.replaced(CAT, SECOND) == FIRST, "a program has not read what it has written"


def test_the_least_active_running_process_loses_a_note(proc: Proc, bound: Bound) -> None:
    """vfs/semantics.md 4.46: it keeps both from then on, even where its children have read since."""
    bound(notes=3, own=3)
    for number in (MAKE, CAT, OTHER, MAKE, CC):
        proc.read(number, FIRST)
    assert proc.notes.count == 3
    assert proc.replaced(MAKE, SECOND) == FIRST
    assert proc.replaced(CAT, FIRST) == Base()
    proc.add(70, CAT)
    proc.read(70, SECOND)
    assert proc.replaced(CAT, SECOND) == Base(), "it had read itself"
    proc.read(CAT, SECOND)
    assert proc.replaced(CAT, SECOND) is None


def test_the_number_of_notes_is_bounded(proc: Proc) -> None:
    """vfs/semantics.md 4.46: ten thousand in all, of which a thousand are safe for each process."""
    for number in range(1000):
        proc.read(OTHER, FIRST, path=f"other{number}")
    for number in range(12_000):
        proc.read(MAKE, FIRST, path=f"file{number}")
    assert proc.notes.count == 10_000
    shown = replace(SECOND, path="other0")
    assert proc.replaced(OTHER, shown) == FIRST


def test_notes_are_thread_safe_while_processes_start_and_end(in_memory: Path, bound: Bound) -> None:
    """vfs/semantics.md 4.46, 6.15: notes and processes stay in step, and within their bounds."""
    bound(notes=100, own=10)
    proc, numbers = Proc(in_memory), itertools.count(1000)

    def work(seed: int) -> None:
        chance, mine = random.Random(seed), [SHELL]
        for _ in range(300):
            child = next(numbers)
            proc.add(child, chance.choice(mine))
            mine.append(child)
            process, path = proc.process(chance.choice(mine)), f"dir/{chance.randrange(40)}"
            proc.readers.hold_process(process)
            proc.readers.note_read(process, path, chance.choice([FIRST, SECOND]))
            proc.readers.version_read_by(process, replace(THIRD, path=path))
            proc.readers.carry_notes(
                replace(FIRST, path=path), replace(FIRST, path=f"dir/{chance.randrange(40)}")
            )
            proc.readers.release_process(process)
            if len(mine) > 6:
                proc.end(mine.pop(chance.randrange(1, len(mine))))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, seed) for seed in range(4)]:
            done.result()
    notes, known = proc.notes, proc.known
    assert notes.count == sum(map(len, notes.by_path.values())) <= 100
    holders = {holder for process in known for holder in process.self_and_ended_descendants}
    assert {holder for there in notes.by_path.values() for holder in there} <= holders
    assert {id(each): each.uses for each in known} == {
        id(each): sum(other.parent is each for other in known) for each in known
    }
    assert len(known) < 200

"""Which version a program has read (vfs/semantics.md 4, What a save replaces)."""

from __future__ import annotations

import itertools
import random
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from threading import Condition

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.state.conftest import FakeProc

from jobfs.nodes import Item, Kind
from jobfs.state.processes import Process
from jobfs.state.read_log import LIMITS, NoteLimits, ReadLog, ReadRecords
from jobfs.state.records import Base

FIRST = Item("i", Kind.FILE, "dir/f", updated_at="1", size=1)
SECOND, THIRD = replace(FIRST, updated_at="2"), replace(FIRST, updated_at="3")
VERSIONS = {"0": replace(FIRST, updated_at=""), "1": FIRST, "2": SECOND, "3": THIRD}
#: A version that this mount has placed; 1r: one with a racy time.
PLACED = {number: Base.from_item(item, sha256="0" * 64) for number, item in VERSIONS.items()}
PLACED["1r"] = replace(PLACED["1"], racy=True)

#: Threads by number: their thread group, and the parent of that. A shell with two children, one of which has a child.
SHELL, CAT, MAKE, CC, OTHER = 10, 20, 30, 31, 40
STRANGER = 50  # without a common ancestor, as from another container
TREE = {1: (1, 0), SHELL: (SHELL, 1), OTHER: (OTHER, 1), STRANGER: (STRANGER, 0)}
TREE |= {CAT: (CAT, SHELL), MAKE: (MAKE, SHELL), CC: (CC, MAKE)}
NAMES = {"shell": SHELL, "cat": CAT, "make": MAKE, "cc": CC, "other": OTHER, "stranger": STRANGER}
THREAD = 21  # of CAT


def at(version: str, path: str = "dir/f") -> Item:
    """A version at a path; it is of another item if it has an `x`."""
    item = VERSIONS.get(version) or replace(FIRST, updated_at=version.lstrip("x"))
    return replace(item, path=path, id="another" if "x" in version else "i")


class Proc(FakeProc):
    """Readers with a `/proc` of their own."""

    def __init__(self, directory: Path, limits: NoteLimits = LIMITS) -> None:
        super().__init__(directory)
        for number, (group, parent) in {**TREE, THREAD: (CAT, SHELL)}.items():
            self.add(number, parent, group=group)
        self.log, self.limits = directory / "notes", limits
        self.readers = ReadLog(Condition(), directory, self.log, limits)
        #: How often the mount is started again before each question.
        self.restarts = 0

    def restart(self) -> None:
        """The mount ends, and the next one begins."""
        self.readers.close()
        self.readers = ReadLog(Condition(), self.directory, self.log, self.limits)

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
            match step.split():
                case "placed", version, *path:
                    self.readers.note_placed((*path, "dir/f")[0], PLACED[version])
                case "becomes", before, old, after, new:
                    self.readers.carry_notes(at(before, old), at(after, new))
                case "moved", old, new:
                    self.readers.move_notes_below(old, new)
                case who, what, *more:
                    self._act(NAMES.get(who, 0), what, *more)

    def _act(self, number: int, what: str, *more: str) -> None:
        process = self.readers.process_of(number)
        if what == "reads":
            version, path = (*more, "dir/f")[:2]
            self.readers.note_read(process, path, at(version, path))
        elif what == "misses":
            self.readers.note_missing(number, "dir/f")
        elif what in ("writes", "sees"):
            over, base = (VERSIONS[more[0]], PLACED[more[1]]) if more else (None, Base())
            self.readers.note_write(process, "dir/f", over, base, opened_for_read=what == "sees")
        elif what == "replaces":
            self.readers.note_unread_replace(process, "dir/f")
        elif what == "renames":
            assert self.readers.inherit_note(process, "dir/f")
            self.readers.carry_notes(at(more[0]), at(*more))
        elif what == "ends":
            self.ends(number)
        elif what == "makes":
            self.readers.ignore_backup_read(process, more[0])

    def saves(self, save: str) -> Item | Base | None:
        """What a save replaces: who saves, the version that is shown, and its path unless it is `dir/f`."""
        who, *shown = save.split()
        for _ in range(self.restarts):
            self.restart()
        return self.readers.version_read_by(self.readers.process_of(NAMES.get(who, 0)), at(*shown))

    def replaced(self, number: int, shown: Item) -> Item | Base | None:
        return self.readers.version_read_by(self.process(number), shown)


@pytest.fixture
def proc(tmp_path: Path, request: pytest.FixtureRequest) -> Proc:
    return Proc(tmp_path, getattr(request, "param", LIMITS))


@pytest.fixture(params=range(3), ids=["one mount", "the next mount", "the mount after that"])
def later(request: pytest.FixtureRequest, tmp_path: Path) -> Proc:
    """Readers whose questions are asked of this mount, or a later one: of one that repeats the log, or a compacted log."""
    proc = Proc(tmp_path)
    proc.restarts = request.param
    return proc


def limited(*limits: tuple[int, int]) -> pytest.MarkDecorator:
    """Give a test limits that it reaches: of all notes, and of those of one process."""
    return pytest.mark.parametrize("proc", [NoteLimits(*each) for each in limits], indirect=True)


def test_renaming_a_version_that_was_never_read_inherits_no_note(proc: Proc) -> None:
    """vfs/semantics.md 4.46: it knows the version that is renamed, which the answer to its rename shows."""
    proc.happens("shell reads 3 new/f")
    assert not proc.readers.inherit_note(proc.process(CAT), "dir/f")
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
    if ended:
        saver = later.process(NAMES[save.split()[0]]).self_and_ancestors()
        for number in sorted({*NAMES.values()} - {int(process.key[0]) for process in saver}, reverse=True):
            later.end(number)
        later.settle()
    assert later.saves(save) == replaces


#: The same, of what this mount has done; `becomes 1 a 2 b`: our request has made version 1 at `a` version 2 at `b`; `moved`: it
#: has renamed a directory.
WRITTEN = "cat writes, placed 1, make reads 3 dir/g, becomes 2 dir/f 2 dir/g, becomes 1 dir/f 1 dir/h"
OVER = "cat writes, make reads 1, make sees, placed 1, becomes 3 dir/g 3 dir/f"
MOVED = ("cat writes, placed 1, make reads 1 dir/g, cat reads 2 new/f, other reads 3 else/f, placed 2 else/f, placed 2 new/g, "
         "moved dir new")  # fmt: skip
AFTER_CHANGES = [
    # A restore replaces only a version that a program near it has read; any other stays beside it (4.54).
    ("make replaces", "make 3", Base()), ("nobody replaces", "make 3", None), ("cat reads 2, make replaces", "make 3", SECOND),
    ("shell reads 2, make replaces", "make 3", SECOND), ("other reads 2, make replaces", "make 3", SECOND),
    # What was placed with a racy time is recognised by its bytes, by any process and under its new name (4.44).
    ("placed 1r", "cat 1", PLACED["1r"]), ("placed 1r", "nobody 1", PLACED["1r"]),
    ("placed 1r, becomes 1 dir/f 1 dir/g", "cat 1 dir/g", PLACED["1r"]),
    # Our rename or chmod carries notes (4.46), for those near the reader, too.
    *((f"cat reads 1, make reads 3, becomes 1 dir/f 1b {path}", save, known) for path in ("dir/f", "dir/g") for save, known in
      ((f"cat 1b {path}", None), (f"cat 4 {path}", at("1b", path)), (f"other 4 {path}", THIRD), ("make 1", THIRD))),
    # A program that renames a file keeps its note, or gets that of a relative. The answer may show what the job has written
    # since, or another file of the job.
    ("cat reads 1, cat renames 2 new/f", "cat 2 new/f", FIRST), ("shell reads 1, cat renames 2 new/f", "cat 2 new/f", FIRST),
    ("cat reads 1, cat renames x2 new/f", "cat x2 new/f", FIRST), ("shell reads 1, cat renames x2 new/f", "cat x2 new/f", FIRST),
    ("cat writes, placed 1, cat renames x2 new/f", "cat x2 new/f", Base()),
    ("shell reads 1, cat reads 3 new/f, cat renames 1 new/f", "cat 1 new/f", None),
    # A rename does not make a version an own one. What a program has written was at the old name.
    (WRITTEN, "make 2 dir/g", at("3", "dir/g")), (WRITTEN, "cat 2 dir/h", PLACED["1"]),
    (f"{WRITTEN}, becomes x3 dir/f x3 dir/h", "cat x3 dir/h", None),
    # A rename over a file drops the notes of those who have only written it; `cat` knows what `make` has read.
    (OVER, "cat 3", FIRST), (OVER, "make 3", FIRST),
    # Notes move with a directory. What was there before under the new name is forgotten, what is elsewhere stays.
    (MOVED, "cat 2 new/f", PLACED["1"]), (MOVED, "make 2 new/g", at("1", "dir/g")), (MOVED, "other 1 else/f", at("3", "else/f")),
    (MOVED, "other 2 else/f", None), (f"{MOVED}, moved other new", "cat 2 new/f", None),
]  # fmt: skip


@pytest.mark.parametrize(("past", "save", "replaces"), AFTER_CHANGES)
def test_a_save_replaces_the_version_known_after_changes_of_this_mount(
    later: Proc, past: str, save: str, replaces: Item | Base | None
) -> None:
    """vfs/semantics.md 4.44, 4.46, 4.54, 4.63; save/protocol.md R2."""
    later.happens(past)
    assert later.saves(save) == replaces


#: The same, as far as only this mount knows it.
IN_ONE_MOUNT = [
    # A program that found a name missing replaces only what was read since, by it or near it, or was placed by this mount (4.62).
    ("make misses", "make 2", Base()), ("make misses", "cc 2", None), ("make misses", "shell 2", None),
    ("make misses, make reads 2", "make 2", None), ("make misses, cat reads 2", "make 2", None),
    ("cat reads 1, make misses", "make 2", FIRST),
    ("make misses, placed 2", "make 2", None), ("make misses, placed 1", "make 2", Base()),
    ("make misses, make writes, placed 1", "make 2", PLACED["1"]),
    ("make misses, nobody misses", "make 2 dir/other", None),
    # A process is known while a descendant runs that began before it ended (4.43).
    ("make reads 1, cc starts, make ends, cat reads 2", "cc 2", FIRST),
    ("make reads 1, cc starts, make ends, cat reads 2, cc ends", "shell 3", SECOND),
]  # fmt: skip


@pytest.mark.parametrize(("past", "save", "replaces"), IN_ONE_MOUNT)
def test_a_save_replaces_what_this_mount_alone_knows_to_be_read(
    proc: Proc, past: str, save: str, replaces: Item | Base | None
) -> None:
    """vfs/semantics.md 4.43, 4.62."""
    proc.happens(past)
    assert proc.saves(save) == replaces


class Twice:
    """The notes of ended processes pass to others in one `/proc`; in the other, no process ends, and each note stays."""

    def __init__(self, top: Path) -> None:
        self.both = self.passed, _ = Proc(top / "passed"), Proc(top / "kept")
        self.numbers = itertools.count(100)
        self.running = {1: 0} | {number: TREE[number][1] for number in NAMES.values()}
        self.of([*self.running])

    def of(self, numbers: list[int]) -> None:
        """The processes have opened a file."""
        for proc, number in product(self.both, numbers):
            proc.process(number)

    def act(self, what: str, which: int, version: str) -> None:
        number = [*self.running][which % len(self.running)]
        if what == "starts":
            self.start(next(self.numbers), number)
            self.of([max(self.running)] * (version != "0"))
        elif what != "ends":
            for proc in self.both:
                process, replaced = proc.process(number), (VERSIONS[version], PLACED[version])
                if what == "reads":
                    proc.readers.note_read(process, "dir/f", replaced[0])
                else:
                    proc.readers.note_write(process, "dir/f", *replaced, opened_for_read=what == "sees")
        elif number != 1:
            del self.running[number]
            self.passed.end(number)
            for child in [child for child, parent in self.running.items() if parent == number]:
                self.start(child, 1)

    def start(self, number: int, parent: int) -> None:
        """A process starts, or another one adopts it."""
        self.running[number] = parent
        for proc in self.both:
            proc.add(number, parent)

    def compare(self) -> None:
        for number, (version, item) in product(self.running, VERSIONS.items()):
            passed, kept = (proc.replaced(number, item) for proc in self.both)
            assert passed == kept, (number, version)


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
            both.passed.readers.process_of(next(both.passed.strangers))
        both.passed.settle()
        both.compare()
        assert both.passed.notes.count <= 2 * len(both.passed.known)


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


def test_a_note_for_which_the_log_is_compacted_is_kept(proc: Proc) -> None:
    """vfs/semantics.md 4.63: here each is."""
    proc.limits = NoteLimits(log_growth=0)
    proc.restart()
    proc.read(CAT, FIRST)
    proc.read(MAKE, THIRD)
    proc.restart()
    assert (proc.replaced(CAT, SECOND), proc.replaced(MAKE, SECOND)) == (FIRST, THIRD)


def test_the_log_of_notes_is_bounded(proc: Proc) -> None:
    """vfs/semantics.md 4.63, 6.15: a log that is read again and again costs a bounded file, and no note."""
    proc.limits = NoteLimits(log_growth=5000)
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
def test_the_next_mount_keeps_the_bounds_of_the_notes(proc: Proc, ended: bool) -> None:
    """vfs/semantics.md 4.46, 4.63: a log with more notes than may be kept leads to evictions."""
    for number in range(20):
        proc.read(MAKE, FIRST, path=f"file{number}")
    if ended:
        proc.end(MAKE)
    proc.limits = NoteLimits(5, 5)
    proc.restart()
    assert proc.notes.count == 5
    assert proc.has(SHELL, "file") == [15, 16, 17, 18, 19]


def test_short_lived_readers_evict_no_note(in_memory: Path) -> None:
    """vfs/semantics.md 4.43, 4.46: an editor still keeps the job's version; notes, processes and memory are bounded."""
    proc = Proc(in_memory, NoteLimits(threads=16))
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


@limited((6, 2))
def test_a_process_evicts_its_own_notes_and_then_keeps_both(proc: Proc) -> None:
    """vfs/semantics.md 4.46: a program that has read very many files; of others nothing is evicted, nor do they notice."""
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


@limited((10, 2))
def test_a_process_keeps_its_share_of_notes(proc: Proc) -> None:
    """vfs/semantics.md 4.46: who has more loses its own note; if nobody has, the one that has been idle longest."""
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


@limited((3, 1), (3, 3))
def test_notes_of_ended_processes_are_evicted_first(proc: Proc) -> None:
    """vfs/semantics.md 4.46: who was there before, and knows of no read of its own or of its children, keeps both."""
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


@limited((3, 3))
def test_the_least_active_running_process_loses_a_note(proc: Proc) -> None:
    """vfs/semantics.md 4.46: it keeps both from then on, even where its children have read since."""
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


def test_notes_are_thread_safe_while_processes_start_and_end(in_memory: Path) -> None:
    """vfs/semantics.md 4.46, 6.15: notes and processes stay in step, and within their bounds."""
    proc, numbers = Proc(in_memory, NoteLimits(100, 10)), itertools.count(1000)

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
            other = f"dir/{chance.randrange(40)}"
            proc.readers.carry_notes(replace(FIRST, path=path), replace(FIRST, path=other))
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

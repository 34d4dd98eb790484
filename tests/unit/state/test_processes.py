"""The processes that open files: identity, ancestors and end (vfs/semantics.md 4.43)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition

import pytest
from tests.unit.state.conftest import FakeProc

from jobfs.state.processes import ProcDirectory, Process, Processes


class Looks(ProcDirectory):
    """A `/proc` that notes the numbers that are looked up in it; `before` is called with each, before it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.of: list[str] = []
        self.before: Callable[[str], object] = lambda number: None

    def _look(self, number: str) -> None:
        self.of.append(number)
        self.before(number)

    def read(self, pid: str, name: str) -> str:
        self._look(pid)
        return super().read(pid, name)

    def has(self, pid: str) -> bool:
        self._look(pid)
        return super().has(pid)


class Proc(FakeProc):
    """The processes of a `/proc`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.lock, self.looks = Condition(), Looks(directory)
        self.processes = Processes(self.lock, self.looks)

    def of(self, number: int) -> Process:
        process = self.processes.process_of(number)
        assert process is not None
        return process

    def numbers(self, number: int) -> list[int]:
        """The numbers of a process and of its ancestors."""
        return [int(process.key[0]) for process in self.of(number).self_and_ancestors()]

    def ended(self) -> list[int]:
        """The processes that are found to have ended once all were checked, and are then forgotten."""
        found = list[int]()
        for _ in range(40):
            self.processes.process_of(next(self.strangers))
            for process in self.processes.find_ended():
                found.append(int(process.key[0]))
                with self.lock:
                    self.processes.forget(process)
        return found


@pytest.fixture
def proc(in_memory: Path) -> Proc:
    proc = Proc(in_memory)
    for number, parent in {1: 0, 10: 1, 20: 10, 30: 20}.items():
        proc.add(number, parent)
    return proc


def test_ancestors_are_those_of_the_first_check(proc: Proc) -> None:
    """vfs/semantics.md 4.43: also where a parent has ended since."""
    assert proc.numbers(30) == [30, 20, 10, 1]
    proc.end(20)
    proc.add(30, 1)
    proc.add(31, 30)
    assert proc.numbers(31) == [31, 30, 20, 10, 1]


def test_a_parent_that_ends_during_the_check_is_replaced(proc: Proc) -> None:
    def end(number: str) -> None:
        if number == "20" and (proc.directory / "20").exists():
            proc.end(20)
            proc.add(30, 1)

    proc.looks.before = end
    assert proc.numbers(30) == [30, 1]


@pytest.mark.parametrize(("hidden", "found"), [(10, [30, 20]), (30, [])])
def test_a_process_that_is_not_visible_ends_the_search(proc: Proc, hidden: int, found: list[int]) -> None:
    """As one of another user where /proc is mounted with hidepid, or one that ends in between."""
    (proc.directory / str(hidden) / "stat").unlink()
    assert (proc.processes.process_of(30) is not None) is bool(found)
    assert not found or proc.numbers(30) == found
    assert len(proc.looks.of) < 10


def test_a_deep_tree_is_read_by_a_loop_and_to_a_bound(proc: Proc) -> None:
    """vfs/semantics.md 4.43: ancestors, 1,000 at most, are looked up."""
    for number in range(100, 2100):
        proc.add(number, number - 1 if number > 100 else 1)
    assert proc.numbers(2099) == [*range(2099, 1099, -1)]
    assert proc.numbers(1098) == [*range(1098, 99, -1), 1]
    assert proc.numbers(1099)[:2] == [1099, 1098], "from there on all are known"


def test_proc_is_read_without_the_lock(proc: Proc) -> None:
    """Other threads use the state while /proc is read: of each process, of its ancestors, and to find those that have ended."""

    def take() -> bool:
        free = proc.lock.acquire(blocking=False)
        if free:
            proc.lock.release()
        return free

    with ThreadPoolExecutor(1) as other:
        proc.looks.before = lambda number: taken.append(other.submit(take).result())
        taken = list[bool]()
        proc.of(30)
        assert proc.looks.of == ["30", "30", "20", "10", "1"]
        proc.processes.find_ended()
    assert len(taken) > 5
    assert all(taken)


def test_ended_processes_are_found_and_the_rest_kept(proc: Proc) -> None:
    proc.of(30)
    proc.add(21, 10)
    proc.of(21)
    assert proc.ended() == []
    proc.end(20)
    assert proc.ended() == [], "a known process descends from it"
    proc.end(30)
    proc.end(21)
    assert sorted(proc.ended()) == [20, 21, 30]
    assert len(proc.processes) == 2


def test_a_parent_that_was_kept_for_an_ended_child_is_checked_next(proc: Proc) -> None:
    for number in range(100, 200):
        proc.add(number, 10)
        proc.of(number)
    thirty = proc.of(30)
    for number in (30, 20):
        proc.end(number)
    with proc.lock:
        proc.processes.forget(thirty)
    assert proc.processes.find_ended() == [thirty.parent]


def test_an_open_checks_few_processes(proc: Proc) -> None:
    """The work of an open does not grow with the number of processes."""
    for number in range(100, 600):
        proc.add(number, 10)
        proc.of(number)
    proc.looks.of.clear()
    for number in (9_000_000, 9_000_001):
        proc.processes.process_of(number)
        proc.processes.find_ended()
    assert 2 < len(proc.looks.of) <= 2 + 16


def test_no_process_is_checked_again_until_it_is_due(proc: Proc) -> None:
    """The work of an open does not grow with the number of opens before it."""
    thirty = proc.of(30)
    proc.end(30)
    assert [proc.processes.find_ended() for _ in range(4)] == [[thirty], [], [], []]


def test_a_forgotten_process_can_be_remembered_again(proc: Proc) -> None:
    thirty = proc.of(30)
    for number in (30, 20):
        proc.end(number)
    assert sorted(proc.ended()) == [20, 30]
    with proc.lock:
        proc.processes.add_with_ancestors(thirty)
    assert proc.ended() == [30, 20]
    assert len(proc.processes) == 2


def test_the_proc_of_another_namespace_is_not_used(proc: Proc) -> None:
    """vfs/semantics.md 4.47: its numbers are those of other processes."""
    own = proc.directory / "self"
    for number in (1, os.getpid()):
        own.unlink(missing_ok=True)
        own.symlink_to(str(number))
        assert (Processes(proc.lock, proc.looks).process_of(30) is not None) is (number != 1)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        yield child


def test_real_processes_are_found_with_their_parents_and_ends(child: subprocess.Popen[bytes]) -> None:
    """What the kernel says: a thread counts as its process, a child is below its parent, and an end is found."""
    processes = Processes(Condition(), ProcDirectory(Path("/proc")))
    found = processes.process_of(child.pid)
    assert found is not None
    assert found.parent is processes.process_of(threading.get_native_id())
    assert found.parent is processes.process_of(os.getpid())
    child.communicate()
    ended = list[Process]()
    for stranger in range(2**30, 2**30 + 100):
        processes.process_of(stranger)
        ended += processes.find_ended()
    assert found in ended
    assert found.parent not in ended


def test_the_heir_of_a_process_is_the_nearest_that_still_runs(proc: Proc) -> None:
    """vfs/semantics.md 4.63: a number that another process has got since is not the process that had it."""
    lineage = [["30", "7"], ["20", "7"], ["10", "7"], ["1", "7"]]
    find = proc.processes.find_heir
    assert find(lineage) is proc.of(30)
    assert find([["", ""], *lineage[1:]]) is proc.of(20).ended_descendants, (
        "of notes that had passed on before"
    )
    proc.add(30, 20, start=8)
    again = Processes(proc.lock, proc.looks)
    assert again.find_heir(lineage) is not None
    assert again.find_heir(lineage) is again.find_heir([["", ""], *lineage[1:]])
    assert again.find_heir([["30", "7"], ["99", "7"]]) is None
    assert again.find_heir([]) is None

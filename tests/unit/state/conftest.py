"""What the tests of the state share."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jobfs.nodes import Item, Kind
from jobfs.state import File, State, edit
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import COLUMNS, Handle

ITEM = Item("one", Kind.FILE, "dir/a", updated_at="1", updated_ns=1)


def held(record: Any) -> dict[str, Any]:
    """What the journal holds of a record."""
    return {name: getattr(record, name) for name in COLUMNS[type(record)]}


class FakeProc:
    """A `/proc` in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Numbers of processes that are not there.
        self.strangers = itertools.count(10_000_000)

    def add(self, number: int, parent: int, *, group: int = 0, start: int = 7) -> None:
        """A thread appears, of the process `group` or of its own; or a process gets another parent."""
        there = f"{self.directory}/{number}"
        os.makedirs(there, exist_ok=True)
        stat = f"{number} (a b) \xe9) S {parent} " + "0 " * 17 + f"{start} 0\n"
        status = f"Name:\ta b) \xe9\nTgid:\t{group or number}\nNgid:\t0\nPid:\t{number}\n"
        for name, text in (("status", status), ("stat", stat)):
            with open(f"{there}/{name}", "w", encoding="latin-1") as file:
                file.write(text)

    def end(self, number: int) -> None:
        """A process ends. Its children, if any, keep it as their parent if they have been seen."""
        for name in ("status", "stat"):
            os.unlink(f"{self.directory}/{number}/{name}")
        os.rmdir(f"{self.directory}/{number}")


def refusing(code: int) -> Callable[..., NoReturn]:
    """A system call that fails."""

    def refuse(*arguments: object, **more: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return refuse


@contextmanager
def failing(call: str, code: int, of: object = os) -> Iterator[None]:
    """Let a system call fail, or another function of a module or an object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(of, call, refusing(code))
        yield


def sql(path: Path, *statements: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
    """Do what another program does to a journal; return the first row of the last statement."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            row: tuple[Any, ...] | None = db.execute(statement, values).fetchone()
        return row


def refuse(path: Path, said: str, *statements: str, when: str = "TRUE") -> None:
    """Let SQLite refuse such statements, as on a full or a broken disk."""
    for number, statement in enumerate(statements):
        does = f"WHEN {when} BEGIN SELECT RAISE(ABORT, '{said}'); END"
        sql(path, f"CREATE TRIGGER no{number} BEFORE {statement} {does}")


def accept(path: Path, count: int = 1) -> None:
    """Let SQLite take what it has refused."""
    sql(path, *(f"DROP TRIGGER no{number}" for number in range(count)))


@contextmanager
def full_disk(state: State, *, spent: bool = False) -> Iterator[None]:
    """Let the disk take nothing new. What has happened is recorded, unless the reserved space is `spent` too."""
    if not spent:
        state.journal.path.with_name("spare").unlink(missing_ok=True)
        with failing("posix_fallocate", errno.ENOSPC):
            yield
        return
    writes = [" ON ".join(each) for each in product(("INSERT", "DELETE"), ("file", "change", "tombstone"))]
    refuse(state.journal.path, "database or disk is full", *writes)
    yield
    accept(state.journal.path, len(writes))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path)
    with closing(state):
        yield state


def again(state: State) -> State:
    """What the next mount finds."""
    other = State(state.journal.path.parent)
    other.store.load_records()
    other.close()
    return other


def written(state: State, path: str, *, item: Item | None = None, content: bytes = b"x") -> File:
    """A file with bytes that were closed here, as files.py and writeback.py make it; open as long as a test likes."""
    file = state.get_or_add_file(item) if item is not None else state.new_local_file(Kind.FILE, path)
    local = state.bytes.create(file.ino, state.journal.next_number())
    local.write(content, 0)
    state.bytes.mark_unsynced(file.ino, local)
    local.release()
    state.apply_in_memory(file, local=local)
    state.write(edit(file, generation=local.generation, size=local.size), is_new=True)
    return file


def opens(file: File) -> None:
    """A program opens it."""
    file.handles.append(Handle(file, file.item, os.O_RDONLY))


def grown(state: State, behind: bytes = b"more") -> tuple[File, LocalGeneration]:
    """A file that was closed, and has more behind that; a program has it open."""
    file = state.new_local_file(Kind.FILE, "a")
    local = state.bytes.create(file.ino, state.journal.next_number())
    local.write(b"closed", 0)
    state.store.begin_generation(file, local)
    state.store.close_generation(file, local)
    local.write(behind, 6)
    return file, local

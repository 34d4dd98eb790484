"""What the tests of the state share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from jobfs.errors import FsError
from jobfs.nodes import Item, Kind
from jobfs.state import File, State, edit
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import COLUMNS, Handle

ITEM = Item("one", Kind.FILE, "dir/a", updated_at="1", updated_ns=1)


def held(record: Any) -> dict[str, Any]:
    """What the journal holds of a record."""
    return {name: getattr(record, name) for name in COLUMNS[type(record)]}


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


@contextmanager
def full_disk(state: State, *, spent: bool = False) -> Iterator[None]:
    """Let the disk take nothing new. What has happened is recorded, unless the reserved space is `spent` too."""
    if not spent:
        state.journal.path.with_name("spare").unlink(missing_ok=True)
        with failing("posix_fallocate", errno.ENOSPC):
            yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.journal, "write", full)
        yield


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


def full(*edits: object, **more: object) -> None:
    raise FsError(errno.ENOSPC)


def grown(state: State, behind: bytes = b"more") -> tuple[File, LocalGeneration]:
    """A file that was closed, and has more behind that; a program has it open."""
    file = state.new_local_file(Kind.FILE, "a")
    local = state.bytes.create(file.ino, state.journal.next_number())
    local.write(b"closed", 0)
    state.store.begin_generation(file, local)
    state.store.close_generation(file, local)
    local.write(behind, 6)
    return file, local

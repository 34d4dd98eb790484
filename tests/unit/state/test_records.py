"""What each record says of itself."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.state.conftest import ITEM

from jobfs.nodes import Item, Kind
from jobfs.state import Change, File
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import Aside, Handle, Verb


def test_a_handle_continues_with_a_racy_version_of_its_own_save() -> None:
    """save/protocol.md R1: bytes that were placed just now."""
    handle = Handle(File(1), ITEM, os.O_RDONLY)
    assert (handle.readable, handle.writable, handle.process) == (True, False, None)
    saved = replace(ITEM, updated_at="2")
    handle.continue_with(saved, LocalGeneration(threading.Condition(), Path(), 1, 1, 1))
    assert (handle.item, handle.base_item, handle.racy) == (saved, saved, True)


def test_a_staged_item_is_recognised_by_its_hidden_name_anywhere() -> None:
    """save/protocol.md R6: by the last component of its path."""
    tid, other = "0123456789abcdef", "f" * 16
    change = Change(1, Verb.PUT, "dir/file", tid=tid)
    places = (("dir", tid), ("moved", tid), ("dir", other))
    named = [f"{where}/.jobfs-0123456789ab-{by}-staged-file" for where, by in places]
    staged = [change.is_staged_item(Item("1", Kind.FILE, path)) for path in [*named, "dir/file"]]
    assert staged == [True, True, False, False]


def test_the_replaced_item_that_was_shown_is_kept() -> None:
    """vfs/semantics.md 4: promote with the old item's lifecycle and permission; only the item that is shown is replaced."""
    own, covered = Aside("own", "h2", moved=True), Aside("default", "h3", moved=True)
    asides = [Aside("not moved", "h1"), Aside("", "lost"), own, covered]
    assert Change(1, Verb.PUT, "file", asides=asides[:2]).first_moved_aside() is None
    assert Change(1, Verb.PUT, "file", asides=asides).first_moved_aside() is own


@pytest.mark.parametrize(("generation", "closed", "goes"), [(5, 7, True), (5, 3, False), (6, 7, False)])
def test_a_rename_over_a_file_takes_no_bytes_written_since(generation: int, closed: int, goes: bool) -> None:
    """save/protocol.md, The steps: a program that has the file open may write while the rename is carried out."""
    local = LocalGeneration(threading.Condition(), Path(), 1, generation, 7, sealed=False, closed_size=closed)
    file = File(1, path="file", generation=generation, local=local, recorded=True)
    assert Change(2, Verb.MOVE, "file", generation=5, file=file).files_moved_over() == [file] * goes

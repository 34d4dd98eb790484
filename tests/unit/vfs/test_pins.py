"""Handles: which version each goes on with (semantics 3, Open files are pinned)."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from jobfs.nodes import Item, Kind
from jobfs.state import File
from jobfs.vfs.pins import Handle

OLD = Item("a", Kind.FILE, "file", updated_at="1")


class Bytes:
    def __init__(self) -> None:
        self.closed = 0

    def read(self, offset: int, size: int) -> bytes:
        return b""

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def handle() -> Handle:
    handle = Handle(File(7), OLD, os.O_RDWR)
    handle.content = Bytes()
    return handle


def test_after_a_save_it_goes_on_with_what_was_saved(handle: Handle) -> None:
    """save-protocol R2: what was saved is the base of the next save; it is young."""
    before, after, saved = handle.content, Bytes(), replace(OLD, id="b")
    assert isinstance(before, Bytes)
    handle.go_on(saved, after)
    assert (handle.item, handle.seen, handle.content, handle.young) == (saved, saved, after, True)
    assert (before.closed, after.closed) == (1, 0)


def test_a_rename_by_this_mount_is_no_other_version(handle: Handle) -> None:
    renamed = replace(OLD, path="other", updated_at="2")
    handle.moved(renamed)
    assert (handle.item, handle.seen) == (renamed, renamed)
    handle.moved(replace(renamed, id="z"))
    assert handle.item == renamed, "that is another file"


def test_what_its_program_was_shown_stays_the_base(handle: Handle) -> None:
    """save-protocol, base: for open-and-write: the version that was opened."""
    followed = replace(OLD, updated_at="2")
    handle.item = followed
    handle.moved(replace(followed, path="other"))
    assert handle.seen == OLD

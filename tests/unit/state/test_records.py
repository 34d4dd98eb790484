"""The records: which way a Change may go, and what each record says of itself."""

from __future__ import annotations

import threading
from itertools import product
from pathlib import Path

import pytest

from jobfs import names
from jobfs.nodes import Item, Kind
from jobfs.state.localbytes import Local
from jobfs.state.records import TRANSITIONS, Aside, Change, File, Stage, Verb

TID = "0123456789abcdef"


@pytest.mark.parametrize(("old", "new"), list(product(Stage, Stage)))
def test_a_change_goes_only_where_the_diagram_has_an_arrow(old: Stage, new: Stage) -> None:
    """save/protocol.md, The steps."""
    change = Change(1, Verb.PUT, "file", old)
    if new in TRANSITIONS[old]:
        change.become(new)
        assert change.stage is new
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            change.become(new)
        assert change.stage is old


def test_what_was_written_since_the_last_close_is_a_later_generation(tmp_path: Path) -> None:
    file = File(7, path="a", generation=3, item_id="1")
    assert (file.written, file.here) == (False, False)
    file.local = Local(threading.Condition(), tmp_path / "3", 3, 0)
    assert (file.written, file.here) == (False, True)
    file.local = Local(threading.Condition(), tmp_path / "4", 4, 0)
    assert file.written


def test_an_item_is_known_as_staged_by_its_hidden_name_in_whatever_directory() -> None:
    """save/protocol.md R6: by the last component of its path."""
    change = Change(1, Verb.PUT, "dir/file", tid=TID)
    for directory, tid, staged in (("dir", TID, True), ("moved", TID, True), ("dir", "f" * 16, False)):
        path = names.hidden_path(f"{directory}/file", "0" * 12, tid, names.Role.STAGED)
        assert change.is_staged(Item("1", Kind.FILE, path)) is staged
    assert not change.is_staged(Item("1", Kind.FILE, "dir/file"))


def test_what_is_kept_of_the_replaced_is_what_was_shown_first() -> None:
    """vfs/semantics.md 4: promote with the old item's lifecycle and permission; only the item that is shown is replaced."""
    change = Change(1, Verb.PUT, "file", asides=[Aside("not moved", "h1"), Aside("", "lost")])
    assert change.replaced() is None
    own, covered = Aside("own", "h2", moved=True), Aside("default", "h3", moved=True)
    change.asides += [own, covered]
    assert change.replaced() is own

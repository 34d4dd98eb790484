"""What a save in flight is told by."""

from __future__ import annotations

import pytest

from jobfs.writeback.records import Aside, Save, SaveKind, State
from jobfs.writeback.transaction import Transaction


@pytest.mark.parametrize("state", State)
def test_it_is_settled_once_the_server_has_the_outcome(state: State) -> None:
    work = Transaction(Save(1, SaveKind.SAVE, "file", state))
    assert work.settled is (state in (State.PROMOTED, State.DONE))
    assert work.untouched is (state is State.STAGING)


def test_it_is_touched_by_the_first_request() -> None:
    """save-protocol: a transaction id is known to the journal before its create is sent."""
    work = Transaction(Save(1, SaveKind.SAVE, "file"))
    work.save.tid = "begun"
    assert not work.untouched
    work.save.tid = ""
    work.asides.append(Aside("a", 1, "name"))
    assert not work.untouched

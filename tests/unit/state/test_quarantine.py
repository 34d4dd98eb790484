"""A damaged journal is put aside with its bytes, and a new one is begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobfs.errors import FsError, UsageError
from jobfs.state.journal import Journal, damaged, open_journal
from jobfs.state.records import Change, Verb

GARBAGE = b"this is not a database, but long enough to be taken for one" * 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bytes").mkdir()
    return tmp_path


def test_a_journal_that_is_whole_is_opened_as_it_is(directory: Path) -> None:
    journal, sentence = open_journal(directory)
    journal.write((Change(1, Verb.PUT, "file"), {}))
    journal.close()
    journal, again = open_journal(directory)
    assert len(journal.load(Change)) == 1
    journal.close()
    assert (sentence, again, damaged(directory)) == ("", "", [])


@pytest.mark.parametrize("unsent", [True, False])
def test_a_journal_that_lost_all_its_bytes_is_never_taken_for_an_empty_one(
    directory: Path, unsent: bool
) -> None:
    (directory / "journal.db").touch()
    if unsent:
        (directory / "bytes" / "0000000000000007.1").write_bytes(b"unsent")
    journal, sentence = open_journal(directory)
    journal.close()
    assert ("it is empty" in sentence) is unsent
    assert bool(damaged(directory)) is unsent


def test_what_cannot_be_put_aside_is_left_as_it_is(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    (directory / "journal.db").write_bytes(GARBAGE)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(FsError, match="can't be moved aside: Permission denied"):
        open_journal(directory)
    assert (directory / "journal.db").read_bytes() == GARBAGE


def test_a_journal_of_another_version_is_no_damage(directory: Path) -> None:
    journal = Journal(directory / "journal.db")
    journal._db.execute("PRAGMA user_version = 9999")
    journal.close()
    with pytest.raises(UsageError, match="another version"):
        open_journal(directory)
    assert damaged(directory) == []

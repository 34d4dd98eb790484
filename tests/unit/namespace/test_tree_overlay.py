"""Which item of several is shown, and what never is."""

from __future__ import annotations

import pytest

from jobfs.names import HiddenName, Role
from jobfs.namespace import shown
from jobfs.namespace.tree import never_shown, refusal, veil
from jobfs.nodes import Lifecycle

from .world import item

HIDDEN = str(HiddenName("0" * 12, "1" * 16, Role.ASIDE, "x.txt"))


def test_the_jobs_own_item_shadows_a_default_however_old_it_is() -> None:
    """semantics 1: lifecycle expertJob shadows application."""
    default = item("x", "1", lifecycle=Lifecycle.APPLICATION, updated_ns=9)
    own = item("x", "2", updated_ns=1)
    assert shown([default, own]) is own
    assert shown([own, default]) is own


def test_within_one_lifecycle_the_newest_is_shown() -> None:
    """semantics 1: within one lifecycle the newest updatedAt wins."""
    older, newer = item("x", "2", updated_ns=1), item("x", "1", updated_ns=2)
    assert shown([older, newer]) is newer


def test_of_equals_every_reader_shows_the_same() -> None:
    one, other = item("x", "1"), item("x", "2")
    assert shown([one, other]) is shown([other, one]) is other


def test_of_nothing_nothing_is_shown() -> None:
    assert shown([]) is None


@pytest.mark.parametrize(
    "path", ["a/../b", "./a", "a//b", "a\0b", "a" * 256, ".jobfs", ".jobfs/job.json", ""]
)
def test_hostile_paths_and_the_mounts_own_directory_are_refused_with_a_reason(path: str) -> None:
    """semantics 1.20: hostile paths are never shown. semantics 4.25: nor is an item called .jobfs."""
    assert refusal(path)
    assert never_shown(path)


@pytest.mark.parametrize("path", ["a", "a/.jobfs", ".jobfsx", ".jobfs-notes.txt", "a" * 255, "ä/ö", "..."])
def test_ordinary_paths_are_not_refused(path: str) -> None:
    """semantics 4: a name that merely begins with .jobfs- is an ordinary file."""
    assert refusal(path) is None
    assert veil(path) is None
    assert not never_shown(path)


def test_a_hidden_name_hides_everything_below_it() -> None:
    """semantics 4: hidden items are never shown in any mount."""
    assert veil(HIDDEN) == ""
    assert veil(f"a/b/{HIDDEN}") == "a/b"
    assert veil(f"a/{HIDDEN}/c/{HIDDEN}") == "a"
    assert never_shown(f"a/{HIDDEN}/c")

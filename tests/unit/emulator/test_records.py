from __future__ import annotations

import pytest

from jobfs.emulator.records import Refused, ancestors, clean_path, new_id, parent, valid_id


def test_new_ids_are_valid_and_differ() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(map(valid_id, ids))


@pytest.mark.parametrize("text", ["", "a" * 23, "a" * 25, "A" * 24, "a" * 23 + "-", "a" * 24 + "\n"])
def test_what_does_not_fit_the_pattern_is_no_id(text: str) -> None:
    assert not valid_id(text)


@pytest.mark.parametrize(
    "path", ["", "/", "//a", "a//b", "a/", ".", "a/./b", "a/..", "a\0b", "x" * 1025, "\ud800"]
)
def test_impossible_paths_are_refused(path: str) -> None:
    with pytest.raises(Refused, match="Invalid path"):
        clean_path(path)


def test_one_leading_slash_is_taken_off() -> None:
    assert clean_path("/a/b") == clean_path("a/b") == "a/b"
    assert clean_path("x" * 1024) == "x" * 1024


def test_parents_and_ancestors_leave_the_root_out() -> None:
    assert ancestors("a/b/c") == ["a", "a/b"]
    assert ancestors("a") == []
    assert (parent("a/b"), parent("a")) == ("a", "")

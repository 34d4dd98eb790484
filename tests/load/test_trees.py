"""Whole trees, copied, unpacked and removed; a repository at work."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.load import trees


def test_a_tree_is_copied_and_removed(held: Callable[..., None]) -> None:
    held(trees.copied, files=120, latency=20)


def test_deep_trees_are_removed_with_few_requests(held: Callable[..., None]) -> None:
    held(trees.removed, directories=60, files=100, beside=250, at_once=2, latency=20)


def test_an_archive_is_unpacked_over_a_line_of_high_latency(held: Callable[..., None]) -> None:
    held(trees.unpacked, files=120, latency=200)


def test_a_repository_is_cloned_edited_packed_and_whole(held: Callable[..., None]) -> None:
    held(trees.repository, commits=4, files=20, latency=20)

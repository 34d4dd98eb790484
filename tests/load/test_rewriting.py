"""Many files saved again, few files saved many times: nothing piles up, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.load import rewriting


def test_sed_over_many_files(held: Callable[..., None]) -> None:
    held(rewriting.sed, files=120, latency=50)


def test_formatters_rewrite_many_files(held: Callable[..., None]) -> None:
    held(rewriting.formatted, files=60, latency=20)


def test_a_few_files_saved_many_times(held: Callable[..., None]) -> None:
    held(rewriting.day, saves=200, latency=20)

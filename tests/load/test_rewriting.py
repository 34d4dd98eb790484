"""Many files saved again, few files saved many times, files read while the job rewrites them: nothing is lost or mixed."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.load import rewriting


def test_sed_over_many_files(held: Callable[..., None]) -> None:
    held(rewriting.sed, files=120, latency=50)


def test_formatters_rewrite_many_files(held: Callable[..., None]) -> None:
    held(rewriting.formatted, files=60, latency=20)


def test_a_few_files_saved_many_times(held: Callable[..., None]) -> None:
    held(rewriting.day, saves=200, latency=20)


def test_files_that_the_job_rewrites_are_read_as_one_version_each(held: Callable[..., None]) -> None:
    """vfs/semantics.md 3.13."""
    held(rewriting.read_meanwhile, files=4, size=2_000_000, writes=60, latency=10)

"""Many files saved again, few files saved many times: nothing piles up, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.load import rewriting


@pytest.mark.parametrize("latency", [20, 50])
def test_sed_over_many_files(held: Callable[..., None], latency: float) -> None:
    held(rewriting.sed, files=200, latency=latency)


def test_formatters_rewrite_many_files(held: Callable[..., None]) -> None:
    held(rewriting.formatted, files=80, latency=20)


def test_a_few_files_saved_many_times(held: Callable[..., None]) -> None:
    held(rewriting.day, saves=400, latency=20)

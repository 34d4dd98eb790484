"""Many open files: a descriptor each and no more, and a clear word where there are too many."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.load import handles


def test_many_programs_hold_files_open(held: Callable[..., None]) -> None:
    held(handles.programs, number=60, saves=20, latency=20)


def test_a_program_that_opens_too_many_files_is_told_so_and_everything_else_goes_on(
    held: Callable[..., None],
) -> None:
    held(handles.crowd, number=600, latency=5)


def test_a_reader_of_many_files_beside_savers(held: Callable[..., None]) -> None:
    held(handles.reader, files=200, saves=40, latency=20)

"""A server that takes requests and says nothing: every call ends, and holds up no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.load import silence


@pytest.mark.parametrize("on", ["POST+DELETE", "*"])
def test_every_call_ends_within_its_deadline_alone_and_forty_at_once(
    held: Callable[..., None], on: str
) -> None:
    held(silence.silent, timeout=1, at_once=40, latency=20, on=on, seconds=60)


def test_umount_ends_within_what_it_was_told(held: Callable[..., None]) -> None:
    held(silence.left, timeout=2, at_once=10, latency=20)


@pytest.mark.parametrize("on", ["POST+DELETE", "*"])
def test_forty_programs_that_wait_in_fsync_hold_up_nobody(held: Callable[..., None], on: str) -> None:
    held(silence.waiting, programs=40, latency=20, on=on, seconds=30)

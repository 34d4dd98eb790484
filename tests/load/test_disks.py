"""A full disk under the state directory: what was acknowledged is sent, and what can give way does."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import pytest
from tests.support.load import disks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk of its own for this")


@pytest.mark.parametrize(("end", "cache"), [("back", "same"), ("recover", "elsewhere")])
def test_what_was_acknowledged_on_a_full_disk_is_sent(
    held: Callable[..., None], end: Literal["back", "recover"], cache: Literal["elsewhere", "same"]
) -> None:
    held(disks.full_disk, end=end, cache=cache, files=12, disk=10, latency=20)

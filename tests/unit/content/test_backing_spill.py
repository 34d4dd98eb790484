"""The window in memory."""

from __future__ import annotations

import pytest

from jobfs.content import backing as spill_module
from jobfs.content.backing import Spill


def test_segments_are_found_by_position() -> None:
    spill = Spill()
    assert spill.put(100, b"abc") == []
    assert spill.put(103, b"def") == []
    assert spill.get(101, 200) == b"bc"
    assert spill.get(101, 102) == b"b"
    assert spill.get(103, 105) == b"de"
    assert spill.get(99, 200) == b""
    assert spill.get(106, 200) == b""


def test_the_oldest_segments_are_dropped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "WINDOW", 10)
    spill = Spill()
    assert spill.put(0, b"x" * 6) == []
    assert spill.put(6, b"y" * 6) == [(0, 6)]
    assert spill.get(0, 6) == b""
    assert spill.put(12, b"z" * 20) == [(6, 12)], "the newest stays, however long"
    assert spill.get(12, 32) == b"z" * 20

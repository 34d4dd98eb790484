from __future__ import annotations

import pytest

from jobfs.emulator.ranges import content_range


@pytest.mark.parametrize(
    ("header", "size", "wanted"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-", 10, (2, 10)),
        ("bytes=2-99", 10, (2, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=-30", 10, (0, 10)),
        ("Bytes = 1-2", 10, (1, 3)),
        ("bytes=10-", 10, (0, 0)),
        ("bytes=0-", 0, (0, 0)),
        ("bytes=-0", 10, (0, 0)),
        ("bytes=3-2", 10, None),
        ("bytes=0-1,4-5", 10, None),
        ("items=0-1", 10, None),
        ("bytes=-", 10, None),
        (None, 10, None),
    ],
)
def test_a_range_is_one_stretch_or_nothing_or_the_whole(
    header: str | None, size: int, wanted: tuple[int, int] | None
) -> None:
    assert content_range(header, size) == wanted

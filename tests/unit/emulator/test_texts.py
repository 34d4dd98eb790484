"""Numbers, ranges and patterns are read as the service reads them."""

from __future__ import annotations

import math

import pytest

from jobfs.emulator.texts import content_range, matcher, number


def test_a_number_is_read_as_javascript_reads_it() -> None:
    texts = (
        "",
        " \ufeff",
        "10",
        "-1.5e1",
        ".5",
        "5.",
        "0xfF",
        "0o17",
        "1e999",
        "-Infinity",
        "0x" + "f" * 300,
    )
    values = [0, 0, 10, -15, 0.5, 5, 255, 15, math.inf, -math.inf, math.inf]
    assert [number(text) for text in texts] == values
    for text in ("1_0", "１０", "inf", "nan", "-0x1", ".", "1e", "1 0", "\x1c1", "1n"):
        assert math.isnan(number(text))


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-99", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=10-", (0, 0)),
        ("bytes=3-2", None),
        ("bytes=0-1,4-5", None),
        (None, None),
    ],
)
def test_a_range_is_one_stretch_or_nothing_or_the_whole(
    header: str | None, wanted: tuple[int, int] | None
) -> None:
    assert content_range(header, 10) == wanted


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "d/e/a.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("a[1]", ["a1"]),
        ("a.{md,txt}", ["a.txt", "a.md"]),
        ("{x", []),
    ],
)
def test_a_pattern_fits_as_in_a_shell(pattern: str, fits: list[str]) -> None:
    matches = matcher(pattern)
    paths = ["a.txt", "b.txt", "a.md", "d/e/a.txt", "a[1]", "a1", "{x}", "a,b"]
    assert [path for path in paths if matches(path)] == fits

"""Numbers, ranges and patterns are read as the service reads them."""

from __future__ import annotations

import math

import pytest

from jobfs.emulator.texts import content_range, matcher, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0), (" \ufeff", 0), ("10", 10), ("-1.5e1", -15), (".5", 0.5), ("5.", 5), ("0xfF", 255), ("0o17", 15), ("0b101", 5),
        ("1e999", math.inf), ("Infinity", math.inf), ("-Infinity", -math.inf), ("0x" + "f" * 300, math.inf),
    ],
)  # fmt: skip
def test_a_number_is_read_as_javascript_reads_it(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["1_0", "１０", "٣", "inf", "nan", "NaN", "-0x1", ".", "1e", "1 0", "\x1c1", "1n"]
)
def test_a_text_that_is_no_number_to_javascript_is_nan(text: str) -> None:
    assert math.isnan(number(text))


@pytest.mark.parametrize(
    ("header", "size", "wanted"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-99", 10, (2, 10)),
        ("bytes=-3", 10, (7, 10)),
        ("bytes=10-", 10, (0, 0)),
        ("bytes=3-2", 10, None),
        ("bytes=0-1,4-5", 10, None),
        (None, 10, None),
    ],
)
def test_a_range_is_one_stretch_or_nothing_or_the_whole(
    header: str | None, size: int, wanted: tuple[int, int] | None
) -> None:
    assert content_range(header, size) == wanted


PATHS = ["a.txt", "b.txt", "a.md", "d/a.txt", "d/e/a.txt", "a[1]", "a1", "{x}", "a,b", "\\"]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "d/a.txt", "d/e/a.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("a[1]", ["a1"]),
        ("a.{md,txt}", ["a.txt", "a.md"]),
        ("{x", []),
    ],
)
def test_a_pattern_fits_as_in_a_shell(pattern: str, fits: list[str]) -> None:
    matches = matcher(pattern)
    assert [path for path in PATHS if matches(path)] == fits

from __future__ import annotations

import math

import pytest

from jobfs.emulator.numbers import number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0), (" \ufeff", 0), ("10", 10), ("-1.5e1", -15), (".5", 0.5), ("5.", 5), ("0xfF", 255), ("0o17", 15), ("0b101", 5),
        ("1e999", math.inf), ("Infinity", math.inf), ("-Infinity", -math.inf), ("0x" + "f" * 300, math.inf),
    ],
)  # fmt: skip
def test_what_javascript_reads(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text", ["1_0", "１０", "٣", "inf", "nan", "NaN", "-0x1", ".", "1e", "1 0", "\x1c1", "1n"]
)
def test_what_is_no_number_to_javascript(text: str) -> None:
    assert math.isnan(number(text))

from __future__ import annotations

import pytest

from jobfs.emulator.globs import matcher

PATHS = ["a.txt", "b.txt", "a.md", "d/a.txt", "d/e/a.txt", "a[1]", "a1", "{x}", "a,b", "\\"]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("**/*.txt", ["a.txt", "b.txt", "d/a.txt", "d/e/a.txt"]),
        ("d/**", ["d/a.txt", "d/e/a.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("[!a].txt", ["b.txt"]),
        ("[^a].txt", ["b.txt"]),
        ("a[1]", ["a1"]),
        ("a.{md,txt}", ["a.txt", "a.md"]),
        ("{x}", []),
        ("{x", []),
        ("a,b", ["a,b"]),
        ("[z-a]", []),
        ("\\", ["\\"]),
    ],
)
def test_a_pattern_fits_as_in_a_shell(pattern: str, fits: list[str]) -> None:
    matches = matcher(pattern)
    assert [path for path in PATHS if matches(path)] == fits

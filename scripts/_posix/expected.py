"""The list of expected failures: a line for each file of pjdfstest, `tests/link/00.t: 3-5, 7  # why (2.13)`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

_LINE = re.compile(r"(?P<name>tests/\S+\.t): *(?P<numbers>[\d, -]+?) *# *(?P<why>\S.*)")
_RANGE = re.compile(r" *(\d+)(?:-(\d+))? *")


@dataclass(frozen=True)
class Expectation:
    """The assertions of one file that fail, and why: with statements of vfs/semantics.md in brackets."""

    numbers: frozenset[int]
    why: str


@dataclass(frozen=True)
class Difference:
    """The assertions that fail without being expected to, and those that are expected to fail and do not."""

    new: frozenset[int]
    gone: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.new or self.gone)


def parse(text: str) -> dict[str, Expectation]:
    """Read the list; blank lines and those that begin with # are skipped. Raises ValueError with the number of a bad line."""
    expected: dict[str, Expectation] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise ValueError(f"line {number} is not of the form 'tests/NAME.t: 1-3, 5  # why (2.13)'")
        if match["name"] in expected:
            raise ValueError(f"line {number} repeats {match['name']}")
        try:
            numbers = frozenset(_numbers(match["numbers"]))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        expected[match["name"]] = Expectation(numbers, match["why"])
    return expected


def _numbers(text: str) -> Iterator[int]:
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{part.strip()!r} is neither a number nor a range")
        first = int(match[1])
        last = int(match[2] or first)
        if not 0 < first <= last:
            raise ValueError(f"{part.strip()!r} is an empty range")
        yield from range(first, last + 1)


def ranges(numbers: Iterable[int]) -> str:
    """Write numbers as the list has them: `3-5, 7`."""
    parts = []
    for _, group in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def compare(name: str, failed: Iterable[int], expected: Mapping[str, Expectation]) -> Difference:
    """Compare the assertions that failed in a file with those that are expected to."""
    known = expected[name].numbers if name in expected else frozenset[int]()
    return Difference(frozenset(failed) - known, known - frozenset(failed))

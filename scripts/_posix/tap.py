"""What one file of pjdfstest reported, in the Test Anything Protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

_PLAN = re.compile(r"1\.\.(\d+)")
_ASSERTION = re.compile(r"(not )?ok\b *(\d+)?[ -]*(.*)")
_TODO = re.compile(r"# *TODO\b", re.IGNORECASE)
#: Random names, of up to 4,095 characters.
_NAME = re.compile(r"\b(?:pjdfstest_)?[0-9a-f]{32,}(?:/[0-9a-f]+)*")


@dataclass(frozen=True)
class Report:
    """The number of planned assertions, and of each that failed its description."""

    planned: int = 0
    failed: Mapping[int, str] = field(default_factory=dict)
    #: Why the output can't be compared with anything; empty if it can.
    problem: str = ""


def read(lines: Iterable[str]) -> Report:
    """Read the output of one file.

    A planned assertion without a result has failed, one marked TODO has not. Output without a plan, or with a result
    beyond it, is a problem.
    """
    lines = list(lines)
    plans = [int(plan[1]) for plan in map(_PLAN.match, lines) if plan]
    if not plans:
        return Report(problem="no plan in the output")
    planned, results = plans[-1], list(_results(lines))
    seen = {number for number, _ in results}
    # Of several results with one number the first failure counts.
    failed = {number: description for number, description in reversed(results) if description is not None}
    if max(seen, default=0) > planned:
        return Report(planned, failed, f"planned up to {planned}, and there is number {max(seen)}")
    missing = dict.fromkeys(set(range(1, planned + 1)) - seen, "no result")
    return Report(planned, failed | missing)


def _results(lines: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """Yield the number of each assertion, and its description if it failed."""
    number = 0
    for line in lines:
        if assertion := _ASSERTION.match(line):
            number = int(assertion[2] or number + 1)
            failed = assertion[1] and not _TODO.search(line)
            yield number, _NAME.sub("NAME", assertion[3].strip()) if failed else None

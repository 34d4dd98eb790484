"""The figures in the README: between its marks, as they were measured."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from .measure import Outcome
from .table import duration

#: The README of this tree, and what stands around its figures.
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"

#: Rows that are shown there: those that a user would ask about.
_SHOWN = (
    "ls", "grep", "grep-warm", "cat-first", "cat", "cp", "cp-all", "save", "replace", "git", "huge", "huge-dir",
)  # fmt: skip


def written(text: str, outcomes: Sequence[Outcome], command: str, commit: str) -> str:
    """The text of a README with these figures in it. Raises click.UsageError if it has no marks, or nothing was measured."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    rows = list(_rows(outcomes))
    if not begin or not end:
        raise click.UsageError(f"the README has no {BEGIN.strip()} and {END} to write between")
    if not rows:
        raise click.UsageError(f"nothing was measured that the README shows: {', '.join(_SHOWN)}")
    table = "\n".join(
        [
            f"`{command}` at commit {commit}:\n",
            "| | round trip | time | requests | bound | an empty file system, or `curl` |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    return f"{before}{begin}{table}\n{end}{after}"


def _rows(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for key in _SHOWN:
        for outcome in outcomes:
            seconds = outcome.median("jobfs")
            if outcome.row.key != key or seconds is None:
                continue
            requests = outcome.median("jobfs", "requests")
            local = next((s for n in ("floor", "curl") if (s := outcome.median(n)) is not None), None)
            cells = [
                outcome.row.title,
                duration(outcome.rtt),
                duration(seconds),
                "" if requests is None else f"{requests:,g}",
                duration(outcome.bound),
                duration(local),
            ]
            yield f"| {' | '.join(cells)} |"


def write(outcomes: Sequence[Outcome], words: Sequence[str]) -> None:
    """Put the figures into the README of this tree; `words`: what the command was called with. Raises click.UsageError."""
    asked = subprocess.run(
        ["git", "-C", str(README.parent), "describe", "--always", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    command = " ".join(["scripts/bench", *(word for word in words if word != "--readme")])
    text = written(README.read_text(), outcomes, command, asked.stdout.strip() or "unknown")
    README.write_text(text)

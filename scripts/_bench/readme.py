"""The figures in the repository's pages: between their marks, as they were measured."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from .measure import Outcome
from .table import duration

#: The marks around the figures of a page.
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->"

#: The pages of this tree, and the rows that each shows: those that users ask about; the README has only two.
_ROOT = Path(__file__).parents[2]
_PAGES = {
    "README.md": ("grep", "save"),
    "src/jobfs/design.md": (
        "ls", "grep", "grep-warm", "cat-first", "cat", "cp", "cp-all", "save", "gap", "replace", "git", "huge", "huge-dir",
    ),
}  # fmt: skip


def written(page: str, text: str, outcomes: Sequence[Outcome], command: str, commit: str) -> str:
    """Return the text of a page with these figures. Raises click.UsageError if it has no marks, or if no row was measured."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    rows = list(_rows(_PAGES[page], outcomes))
    if not begin or not end:
        raise click.UsageError(f"{page} has no {BEGIN.strip()} and {END} to write between")
    if not rows:
        raise click.UsageError(f"nothing was measured that {page} shows: {', '.join(_PAGES[page])}")
    table = "\n".join(
        [
            f"`{command}` at commit {commit}:\n",
            "| | round trip | time | requests | bound | an empty file system, or `curl` |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    return f"{before}{begin}{table}\n{end}{after}"


def _rows(shown: Sequence[str], outcomes: Sequence[Outcome]) -> Iterator[str]:
    for key in shown:
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
    """Write the figures into the pages of this tree; `words`: the arguments of the command. Raises click.UsageError."""
    asked = subprocess.run(
        ["git", "-C", str(_ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    command = " ".join(["scripts/bench", *(word for word in words if word != "--readme")])
    commit = asked.stdout.strip() or "unknown"
    texts = {page: written(page, (_ROOT / page).read_text(), outcomes, command, commit) for page in _PAGES}
    for page, text in texts.items():
        (_ROOT / page).write_text(text)

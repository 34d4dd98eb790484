"""The report of `scripts/load`: one line a workload, then what else was held, then what broke."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import bounds
from .figures import Sample
from .stage import Outcome

#: What a column of figures shows: its title with the bounds, the check that it belongs to (as its words begin), and how.
_FIGURES: tuple[tuple[str, str, Callable[[Sample], str]], ...] = (
    (f"descriptors\n≤ {bounds.DESCRIPTORS} + open", "descriptors", lambda s: f"{s.descriptors:,}"),
    (f"threads\n≤ {bounds.THREADS}", "threads", lambda s: f"{s.threads:,}"),
    ("memory, MB\n≤ start + 48 MiB + 4 KiB/file", "MB of memory", lambda s: f"{s.memory / 1e6:,.0f}"),
    (f"journal rows\n≤ items + {bounds.ROWS} a table, 0 unsent", "rows of", lambda s: f"{s.rows:,}"),
    ("local MB\n0 at rest", "local bytes", lambda s: f"{s.local_bytes / 1e6:,.1f}"),
    (f"hidden items\n≤ {bounds.HIDDEN}, 0 at rest", "hidden items", lambda s: f"{s.hidden:,}"),
    ("conflict copies\n0", "conflict copies", lambda s: f"{s.conflicts:,}"),
)


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Prints it all."""
    table = Table(title="Load: at the peak / at rest", title_justify="left", pad_edge=False)
    table.add_column("workload", no_wrap=True)
    table.add_column("what was done", min_width=24)
    table.add_column("rate /s", justify="right")
    for title, _, _ in _FIGURES:
        table.add_column(title, justify="right")
    table.add_column("held")
    for outcome in outcomes:
        cells = [
            _figure(outcome, words, shown(outcome.peak), shown(outcome.rest)) for _, words, shown in _FIGURES
        ]
        held = Text("NO", "bold red") if outcome.broken else Text("yes")
        table.add_row(outcome.name, outcome.what, f"{outcome.rate:,.0f}", *cells, held)
    console.print(table)
    _promises(outcomes, console)
    for outcome in outcomes:
        for check in outcome.broken:
            console.print(
                f"broken: {outcome.name}: {check.what}: {check.found} ({check.bound})", markup=False
            )


def _figure(outcome: Outcome, words: str, peak: str, rest: str) -> Text:
    broken = any(check.what.startswith(words) for check in outcome.broken)
    return Text(f"{peak} / {rest}", "bold red" if broken else "")


def _promises(outcomes: Sequence[Outcome], console: Console) -> None:
    """What is not in the first table."""
    table = Table(title="What else was promised", title_justify="left", pad_edge=False)
    for title in ("workload", "promise", "found", "bound", "held"):
        table.add_column(title, no_wrap=title == "workload")
    shown = tuple(words for _, words, _ in _FIGURES)
    for outcome in outcomes:
        for check in outcome.checks:
            if not check.what.startswith(shown):
                held = Text("yes") if check.held else Text("NO", "bold red")
                table.add_row(outcome.name, check.what, Text(check.found), check.bound, held)
    console.print(table)

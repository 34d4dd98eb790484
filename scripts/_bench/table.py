"""The report: a table for people, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import Outcome

_COLUMNS = ("rtt", "jobfs", "cpu", "req", "bound", "x bound", "floor/curl", "best peer", "ratio")


def duration(seconds: float | None) -> str:
    """Format seconds in the unit that leaves two or three digits."""
    if seconds is None:
        return ""
    if seconds == 0:
        return "0"
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms" if seconds >= 0.01 else f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def _cells(outcome: Outcome) -> list[str]:
    ours, requests, bound, peer = (
        outcome.median("jobfs"),
        outcome.median("jobfs", "requests"),
        outcome.bound,
        outcome.best_peer,
    )
    local = next(((n, s) for n in ("floor", "curl") if (s := outcome.median(n)) is not None), None)
    return [
        f"{outcome.rtt * 1000:g}",
        duration(ours),
        duration(outcome.median("jobfs", "cpu")),
        "" if requests is None else f"{requests:g}",
        duration(bound),
        f"{ours / bound:.2f}" if ours and bound else "",
        f"{duration(local[1])} ({ours / local[1]:.2f})" if ours and local else "",
        f"{peer[0]} {duration(peer[1])}" if peer else "",
        f"{peer[1] / ours:.1f}" if ours and peer else "",
    ]


def line(outcome: Outcome) -> str:
    """Format a row of the table as one line, to print before the table is complete; "" if jobfs was not measured."""
    if outcome.median("jobfs") is None:
        reason = outcome.failures.get("jobfs")
        return f"{_name(outcome)}: not measured: {reason}" if reason else ""
    _, *cells = _cells(outcome)
    facts = (f"{name} {cell}" for name, cell in zip(_COLUMNS[1:], cells, strict=True) if cell)
    return f"{_name(outcome)}: {', '.join(facts)}"


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table, then the missed targets, then what could not be measured."""
    table = Table(title="jobfs bench", title_justify="left", pad_edge=False)
    table.add_column("workload", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("target")
    table.add_column("met")
    for outcome in outcomes:
        target = ", ".join(goal.text for goal in outcome.goals)
        met = {True: "yes", False: "NO", None: ""}[outcome.met()]
        if outcome.median("jobfs") is not None or outcome.failures:
            table.add_row(outcome.row.title, *_cells(outcome), target, met)
    console.print(table)
    for outcome in outcomes:
        for miss in outcome.misses():
            console.print(f"missed: {_name(outcome)}: {miss}", highlight=False)
        for system in outcome.unsynced:
            text = f"not compared: {_name(outcome)}: fsync of {system} does not wait for the server"
            console.print(text, highlight=False)
    reasons: dict[tuple[float, str, str], list[str]] = {}
    for outcome in outcomes:
        for system, reason in outcome.failures.items():
            reasons.setdefault((outcome.rtt, system, reason), []).append(outcome.row.title)
    for (rtt, system, reason), titles in reasons.items():
        text = f"not measured: {system} at {rtt * 1000:g} ms, {', '.join(titles)}: {reason}"
        console.print(text, highlight=False, markup=False)


def _name(outcome: Outcome) -> str:
    return f"{outcome.row.title} at {outcome.rtt * 1000:g} ms"


def write_json(outcomes: Iterable[Outcome], file: Path, facts: dict[str, Any]) -> None:
    """Write everything that was measured: medians, extremes, each run."""
    rows = [_as_json(outcome) for outcome in outcomes]
    file.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "row": outcome.row.key,
        "title": outcome.row.title,
        "rtt": outcome.rtt,
        "bound": outcome.bound,
        "targets": [
            {"text": goal.text, "value": goal.value(outcome), "met": goal.met(outcome)}
            for goal in outcome.goals
        ],
        "met": outcome.met(),
        "best_peer": outcome.best_peer,
        "not_measured": outcome.failures,
        "systems": {
            name: {
                "median": outcome.median(name),
                "min": min(sample.seconds for sample in samples),
                "max": max(sample.seconds for sample in samples),
                "requests": outcome.median(name, "requests"),
                "cpu": outcome.median(name, "cpu"),
                "runs": [asdict(sample) for sample in samples],
            }
            for name, samples in outcome.samples.items()
            if samples
        },
    }

"""What all stress programs share: the command line, what is held to its bound, and the report at the end."""

from __future__ import annotations

import functools
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

_INTERRUPTED = 130


@dataclass(frozen=True)
class Check:
    """A bound, what was found, and whether it held."""

    what: str
    found: str
    bound: str
    held: bool

    def __str__(self) -> str:
        return f"{'held  ' if self.held else 'BROKEN'} {self.what}: {self.found} ({self.bound})"


def at_most(what: str, found: float, limit: float) -> Check:
    """Held if it is no more than that."""
    return Check(what, _number(found), f"at most {_number(limit)}", held=found <= limit)


def at_least(what: str, found: float, limit: float) -> Check:
    """Held if it is no less than that."""
    return Check(what, _number(found), f"at least {_number(limit)}", held=found >= limit)


def equal(what: str, found: Any, wanted: Any) -> Check:
    """Held if it is that."""
    return Check(what, str(found), str(wanted), held=found == wanted)


def none(what: str, wrong: list[str]) -> Check:
    """Held if nothing was wrong; else the first of it is told."""
    return Check(what, "; ".join(wrong[:3]) or "none", "none", held=not wrong)


def in_time(what: str, seconds: float, limit: float, late: str = "") -> Check:
    """Held if it was done in time; `late` says what was not done."""
    return Check(what, late or f"{seconds:.2f}", f"at most {limit:g}", held=not late and seconds <= limit)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2f}"


@dataclass
class Row:
    """What was played, in how many seconds, its figures by the title of their column, and what was held."""

    name: str
    what: str = ""
    figures: dict[str, str] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def broken(self) -> list[Check]:
        """The bounds that did not hold."""
        return [check for check in self.checks if not check.held]

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.name}: {self.what}, {self.seconds:.0f} s, {self.figures}", *map(str, self.checks)]
        )


class Run:
    """One run of a program: where chance begins, a directory that is gone afterwards, and what came of it so far."""

    def __init__(self, name: str, seed: int | None) -> None:
        self.seed = secrets.randbelow(10**6) if seed is None else seed
        self.console = Console(width=None if sys.stdout.isatty() else 230)
        self.rows: list[Row] = []
        #: True: what was found is in the directory, and it stays.
        self.kept = False
        self._name = name

    @functools.cached_property
    def home(self) -> Path:
        """The directory."""
        return Path(tempfile.mkdtemp(prefix=f"jobfs-{self._name}-"))

    def begin(self, what: str) -> None:
        """Says what is to come."""
        self.console.print(f"seed {self.seed}, {what}; Ctrl-C ends it before", highlight=False)

    def add(self, row: Row) -> None:
        """Notes what was played, and says what came of it."""
        self.rows.append(row)
        verdict = f"{len(row.broken)} bounds broken" if row.broken else "held"
        self.console.print(f"{row.seconds:5.0f} s  {row.name}: {verdict}", highlight=False)

    def end(self) -> None:
        """Prints the report, and takes the directory away."""
        if self.rows:
            self._show()
        if "home" in self.__dict__ and not self.kept:
            shutil.rmtree(self.home, ignore_errors=True)

    def _show(self) -> None:
        table = Table(title=self._name, title_justify="left", pad_edge=False)
        table.add_column("what", no_wrap=True)
        table.add_column("what was done", min_width=24)
        titles = list(dict.fromkeys(title for row in self.rows for title in row.figures))
        for title in titles:
            table.add_column(title, justify="right")
        table.add_column("held")
        for row in self.rows:
            held = Text("NO", "bold red") if row.broken else Text("yes")
            table.add_row(row.name, row.what, *[row.figures.get(title, "") for title in titles], held)
        self.console.print(table)
        for row in self.rows:
            for check in row.broken:
                told = f"broken: {row.name}: {check.what}: {check.found} ({check.bound})"
                self.console.print(told, markup=False)


def program(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command of what plays and adds rows to a Run: exit code 1 if a bound did not hold, 130 if it was interrupted."""

    def decorated(play: Callable[..., None]) -> click.Command:
        @click.option(
            "--seed", type=int, default=None, help="Where chance begins; printed when it is not given."
        )
        @functools.wraps(play)
        def called(seed: int | None, **given: Any) -> None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                # A signal that only ends Python would leave what was mounted.
                signal.signal(number, signal.default_int_handler)
            run, interrupted = Run(name, seed), False
            try:
                play(run, **given)
            except KeyboardInterrupt:
                interrupted = True
                run.console.print("interrupted; this is what there is so far")
            finally:
                run.end()
            sys.exit(_INTERRUPTED if interrupted else any(row.broken for row in run.rows))

        return click.command(name)(called)

    return decorated

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


def none(what: str, wrong: list[str], but: int = 0) -> Check:
    """Held if nothing was wrong, or no more than `but`; otherwise it names the first findings."""
    number = f"{len(wrong)}, such as " if len(wrong) > 3 else ""
    found = number + "; ".join(wrong[:3]) if wrong else "none"
    return Check(what, found, f"at most {but}" if but else "none", held=len(wrong) <= but)


def in_time(what: str, seconds: float, limit: float, late: str = "") -> Check:
    """Held if it was done in time; `late` says what was not done."""
    return Check(what, late or f"{seconds:.2f}", f"at most {limit:g}", held=not late and seconds <= limit)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2f}"


@dataclass
class Row:
    """What was played, in how many seconds, and what was held."""

    name: str
    what: str = ""
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def broken(self) -> list[Check]:
        """The bounds that did not hold."""
        return [check for check in self.checks if not check.held]

    def __str__(self) -> str:
        held = f"{len(self.broken)} bounds BROKEN" if self.broken else f"{len(self.checks)} bounds held"
        first = f"{self.name}, {self.seconds:.0f} s: {held}; {self.what}"
        return "\n  ".join([first, *map(str, self.broken)])


class Run:
    """One run of a program: where chance begins, a directory that is gone afterwards, and what came of it so far."""

    def __init__(self, name: str, seed: int | None) -> None:
        self.seed = secrets.randbelow(10**6) if seed is None else seed
        self.rows: list[Row] = []
        self.home = Path(tempfile.mkdtemp(prefix=f"jobfs-{name}-"))
        #: True: what was found is in the directory, and it stays.
        self.kept = False

    def add(self, row: Row) -> None:
        """Notes what was played, and says what came of it."""
        self.rows.append(row)
        print(row, flush=True)

    def end(self) -> None:
        """Takes the directory away."""
        if not self.kept:
            shutil.rmtree(self.home, ignore_errors=True)


def program(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that adds rows to a Run: exit code 1 if a bound did not hold, 130 if interrupted."""

    def decorated(play: Callable[..., None]) -> click.Command:
        @click.option("--seed", type=int, help="Where chance begins; printed when it is not given.")
        @functools.wraps(play)
        def called(seed: int | None, **given: Any) -> None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                # A signal that only ends Python would leave what was mounted.
                signal.signal(number, signal.default_int_handler)
            run = Run(name, seed)
            try:
                play(run, **given)
            except KeyboardInterrupt:
                sys.exit(130)
            finally:
                run.end()
            broken = [row.name for row in run.rows if row.broken]
            sys.exit(f"seed {run.seed}, broken: {', '.join(broken)}" if broken else 0)

        return click.command(name)(called)

    return decorated

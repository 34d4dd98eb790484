"""How far what is being sent is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Seconds between lines where nobody watches a bar; what takes less than that needs none.
_BETWEEN = 5.0


@contextlib.contextmanager
def sending(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with how much is done and how much there is, in files."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    told = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal told
        if total and time.monotonic() - told >= _BETWEEN:
            told = time.monotonic()
            click.echo(f"jobfs: {what}: {done} of {total}", err=True)

    return line

"""Output for people: lines without control characters for the terminal, and progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click

from jobfs.errors import UsageError
from jobfs.names import escape_for_terminal as escape_for_terminal
from jobfs.nodes import SendProgress
from jobfs.settings import format_size as format_size


def print_escaped(text: object, *, err: bool = False) -> None:
    """Print one line, escaped: it may contain names and reasons from the server, the job or another user."""
    click.echo(escape_for_terminal(text), err=err)


def print_sentence(sentence: str) -> None:
    """Print on stderr a sentence that a mount sent."""
    print_escaped(f"jobfs: {sentence}", err=True)


def confirm(question: str) -> bool:
    """Ask a yes-or-no question on stderr; return the answer. Raises UsageError if stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise UsageError("can't ask without a terminal: give --yes")
    return click.confirm(escape_for_terminal(question), err=True)


def format_count(number: int, noun: str) -> str:
    """Format a number of things: `1 file`, `1,234 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@contextlib.contextmanager
def show_progress(label: str) -> Iterator[Callable[[SendProgress], None]]:
    """Show a progress bar on a terminal; yield the function that updates it."""
    try:
        if sys.stderr.isatty():
            with _progress_bar(escape_for_terminal(label)) as update:
                yield update
        else:
            yield lambda sent: None
    except KeyboardInterrupt:
        print_escaped("jobfs: interrupted: unsent files are kept, and nothing is lost", err=True)
        raise


@contextlib.contextmanager
def _progress_bar(label: str) -> Iterator[Callable[[SendProgress], None]]:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    # On a narrow terminal, the description is shortened first.
    about = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    described = progress.TextColumn("{task.description}", markup=False, table_column=about)
    amounts = progress.DownloadColumn(), progress.TransferSpeedColumn(), progress.TimeElapsedColumn()
    columns = described, progress.BarColumn(20), *amounts
    with progress.Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as bar:
        task = bar.add_task(label, total=None)

        def update(sent: SendProgress) -> None:
            # Directories and empty files have no bytes: the bar does not move until the server has them.
            files = f"{sent.files} of {format_count(sent.all_files, 'file')}: {label}"
            bar.update(task, completed=sent.bytes, total=sent.all_bytes or None, description=files)

        yield update

"""What a person reads: names and reasons come from the server, the job or a neighbour, and must not steer a terminal."""

from __future__ import annotations

import click

from jobfs.names import shown as shown


def tell(text: object, *, err: bool = False) -> None:
    """Print one line, escaped."""
    click.echo(shown(text), err=err)


def counted(number: int, what: str) -> str:
    """A number of things: `1 file`, `1,234 files`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"

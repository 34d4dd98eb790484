"""What a person reads: names and reasons come from the server, the job or a neighbour, and must not steer a terminal."""

from __future__ import annotations

import click

from jobfs.names import shown as shown


def tell(text: object, *, err: bool = False) -> None:
    """Print one line, escaped."""
    click.echo(shown(text), err=err)

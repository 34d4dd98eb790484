"""What a person reads: names and reasons come from the server, the job or a neighbour, and must not steer a terminal."""

from __future__ import annotations

import re

import click

#: Control characters, line and paragraph separators, what turns the direction of writing, and halves of characters.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # fmt: skip


def shown(text: object, keep: str = "") -> str:
    """The text with every character that a terminal obeys, or can't encode, as `\\x1b` or `\\udc80`; `keep` stay."""
    return _UNSAFE.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode("ascii"),
        str(text),
    )


def tell(text: object, *, err: bool = False) -> None:
    """Print one line, escaped."""
    click.echo(shown(text), err=err)


def counted(number: int, what: str) -> str:
    """A number of things: `1 file`, `1,234 files`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"

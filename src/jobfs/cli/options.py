"""Settings as click options: each is defined once, in `jobfs.settings`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from jobfs.cli.completion import directories, files
from jobfs.settings import Option, options

F = TypeVar("F", bound=Callable[..., Any])


def setting_options(command: F) -> F:
    """Every setting as an option, plus `-o`; values reach the command as given, None where they were not."""
    for option in reversed(options()):
        command = _option(option.name)(command)
    return click.option(
        "-o", "mount_options", multiple=True, metavar="NAME[=VALUE],…",
        help="Any of the settings below, as mount(8) and fstab give them; ro for --read-only.",
    )(command)  # fmt: skip


def state_dir_option(command: F) -> F:
    """`--state-dir`, for commands that look for a running mount."""
    return _option("state_dir")(command)


def _option(name: str) -> Callable[[F], F]:
    option = next(option for option in options() if option.name == name)
    words: dict[str, Any] = {"help": f"{option.help}{_default(option.default)}  [env: {option.env}]"}
    if option.is_flag:
        words.update(is_flag=True, default=None)
    else:
        words.update(metavar=option.metavar, multiple=option.multiple, default=None)
        words.update(shell_complete=_completing(option))
    return click.option(option.flag, option.name, **words)


def _completing(option: Option) -> Callable[..., list[CompletionItem[str]]] | None:
    """What the option's value completes to; None: nothing."""
    if option.choices:
        return click.Choice(option.choices).shell_complete
    return {"DIR": directories, "FILE": files}.get(option.metavar)


def _default(value: Any) -> str:
    """A default that the help does not give in words of its own."""
    return f"  [default: {value:g}]" if isinstance(value, float) else ""

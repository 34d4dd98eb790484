"""Settings as click options, each as options.py describes it, and help that fits one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from jobfs.cli.completion import directories, files
from jobfs.options import OPTIONS, Option

if TYPE_CHECKING:
    from jobfs.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

#: In a context's `meta`: the help is to show every option.
HELP_ALL = "jobfs.help_all"


def not_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """A path as it was given; an empty one, which would be the current directory, is refused."""
    if value == "":
        raise click.BadParameter("a path is needed, and this one is empty.")
    return value


class Rare(click.Option):
    """An option that only `--help-all` shows."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Its line in the help, None where that has no room for it."""
        return super().get_help_record(ctx) if ctx.meta.get(HELP_ALL) else None


class Command(click.Command):
    """A command whose `--help` fits one screen, and whose `--help-all` has every option, and the text `more`."""

    def __init__(self, *arguments: Any, more: str = "", **words: Any) -> None:
        super().__init__(*arguments, **words)
        self._more = more

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its parameters, with `--help-all` if that shows any more than `--help`."""
        params = super().get_params(ctx)
        if not self._more and not any(isinstance(option, Rare) for option in params):
            return params
        everything = click.Option(
            ["--help-all"], is_flag=True, expose_value=False, is_eager=True, callback=_show_all,
            help="Show every option.",
        )  # fmt: skip
        return [*params, everything]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """What it does; in full if everything is asked for."""
        super().format_help_text(ctx, formatter)
        if self._more and ctx.meta.get(HELP_ALL):
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(self._more)


def _show_all(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


def setting_options(*main: str) -> Callable[[F], F]:
    """Every setting as an option, plus `-o`; values reach the command as given, None where they were not.

    `main`: the names of those that `--help` shows, `mount_options` for `-o`.
    """

    def add(command: F) -> F:
        for name in reversed(OPTIONS):
            command = _option(name, rare=name not in main)(command)
        return click.option(
            "-o", "mount_options", multiple=True, metavar="NAME[=VALUE],…",
            cls=click.Option if "mount_options" in main else Rare,
            help="Any setting, as fstab gives it; ro for --read-only.",
        )(command)  # fmt: skip

    return add


def state_dir_option(command: F) -> F:
    """`--state-dir`, for commands that look for a running mount."""
    return _option("state_dir", rare=False)(command)


def load(flags: Mapping[str, Any], mount_options: Iterable[str] = ()) -> Settings:
    """The settings, as `jobfs.settings.load` makes them, loaded now that somebody wants more than help. Raises UsageError."""
    from jobfs import settings

    return settings.load(flags, mount_options)


def _option(name: str, *, rare: bool) -> Callable[[F], F]:
    option = OPTIONS[name]
    default = f"  [default: {option.default_text}]" if option.default_text else ""
    variable = f"  [env: {option.env}]" if rare else ""
    words: dict[str, Any] = {"help": f"{option.help}{default}{variable}", "default": None}
    if option.is_flag:
        words["is_flag"] = True
    else:
        words.update(metavar=option.metavar, multiple=option.multiple)
        words["shell_complete"] = _completing(option)
    return click.option(option.flag, name, cls=Rare if rare else click.Option, **words)


def _completing(option: Option) -> Callable[..., list[CompletionItem[str]]] | None:
    """What the option's value completes to; None: nothing."""
    if option.choices:
        return click.Choice(option.choices).shell_complete
    return {"DIR": directories, "FILE": files}.get(option.metavar)

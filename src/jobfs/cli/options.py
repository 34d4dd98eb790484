"""Settings as click options, and help that fits one screen."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from jobfs import mountpoint
from jobfs.settings import OPTIONS, flag_of, is_switch, variable_of

F = TypeVar("F", bound=Callable[..., Any])

#: The key in a context's `meta` that makes the help show every option.
HELP_ALL = "jobfs.help_all"

#: Completion of any directory, and of any file, which the shell does itself.
complete_directories = click.Path(file_okay=False).shell_complete
complete_files = click.Path().shell_complete


def complete_mounted(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem[str]]:
    """Return the directories with a mounted job that begin with `begun`; if there are none, complete any path.

    It may be a path inside a mount, or a relative one.
    """
    # bash inserts completions unquoted; names that need quotes are left to its own completion of paths.
    points = {mount.point: mount.kind for mount in mountpoint.list_mounts()}
    offered = [
        CompletionItem(point)
        for point, kind in points.items()
        if kind == "fuse.jobfs" and point.startswith(begun) and shlex.quote(point) == point
    ]
    return offered or complete_files(context, parameter, begun)


def reject_empty(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the path as given. Raises BadParameter for an empty one, which would mean the current directory."""
    if value == "":
        raise click.BadParameter("the path must not be empty.")
    return value


class Rare(click.Option):
    """An option that only `--help-all` shows."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's line in the help; None without `--help-all`."""
        return super().get_help_record(ctx) if ctx.meta.get(HELP_ALL) else None


def help_all_option(command: F) -> F:
    """Add `--help-all`, for a command with options that are `Rare`."""
    return click.option(
        "--help-all", is_flag=True, expose_value=False, is_eager=True, callback=_print_full_help, help="Show every option.",
    )(command)  # fmt: skip


def _print_full_help(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


def setting_options(*main: str) -> Callable[[F], F]:
    """Add every setting as an option, and `-o`. A setting that was not given reaches the command as None.

    `main`: the names of the settings that `--help` shows; `libfuse_options` stands for `-o`.
    """

    def add(command: F) -> F:
        command = help_all_option(command)
        for name in reversed(OPTIONS):
            command = _make_option(name, rare=name not in main)(command)
        return click.option(
            "-o", "mount_options", multiple=True, metavar="NAME[=VALUE],…",
            cls=click.Option if "mount_options" in main else Rare,
            help="Any setting, as in fstab; ro means --read-only.",
        )(command)  # fmt: skip

    return add


def state_dir_option(command: F) -> F:
    """Add `--state-dir`, for commands that look for a running mount."""
    return _make_option("state_dir", rare=False)(command)


def _make_option(name: str, *, rare: bool) -> Callable[[F], F]:
    field = OPTIONS[name]
    words: dict[str, Any] = {"is_flag": True}
    if not is_switch(name):
        choices = get_args(field.annotation) if field.title in ("LEVEL", "HOW") else ()
        completing = {"DIR": complete_directories, "FILE": complete_files}.get(field.title or "")
        words = {
            "metavar": field.title,
            "multiple": field.default == (),
            "shell_complete": click.Choice(choices).shell_complete if choices else completing,
        }
    env = f"  [env: {variable_of(name)}]" if rare else ""
    cls = Rare if rare else click.Option
    return click.option(
        flag_of(name),
        name,
        cls=cls,
        default=None,
        help=f"{field.description}{_describe_default(name)}{env}",
        **words,
    )


def _describe_default(name: str) -> str:
    """Return the note on a setting's default for the help, "" if there is none."""
    default = OPTIONS[name].default
    if is_switch(name) or not isinstance(default, (str, int, float)):
        return ""
    return f"  [default: {default:g}]" if isinstance(default, float) else f"  [default: {default}]"

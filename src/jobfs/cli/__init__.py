"""The command line: one small module per command; the only package that puts the parts together."""

from __future__ import annotations

import getopt
import importlib
import os
import re
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from jobfs import __version__
from jobfs.errors import UsageError

#: Commands by name: the module of each, and the line that `jobfs --help` shows without loading it.
COMMANDS = {
    "mount": ("jobfs.cli.mount", "Mount a job's workspace at DIR."),
    "umount": ("jobfs.cli.umount", "Send unsent files, then unmount DIR."),
    "status": ("jobfs.cli.status", "Show what a mount is doing, and its problems."),
    "watch": ("jobfs.cli.watch", "Print the changes that the job makes."),
    "wait": ("jobfs.cli.wait", "Wait until the job has ended."),
    "flush": ("jobfs.cli.files", "Wait until the server has everything."),
    "retry": ("jobfs.cli.files", "Send failed files again."),
    "discard": ("jobfs.cli.files", "Give up unsent changes."),
    "restore": ("jobfs.cli.restore", "Print your last save of a file, or put it back."),
    "merge": ("jobfs.cli.merge", "Merge the conflict copies of a file into the file."),
    "recover": ("jobfs.cli.recover", "Send what ended mounts left unsent, without mounting."),
    "info": ("jobfs.cli.files", "Show what the server knows about a file."),
    "set": ("jobfs.cli.files", "Change a file's permission or lifecycle on the server."),
    "doctor": ("jobfs.cli.doctor", "Check this machine and the account, with remedies."),
    "install-helper": ("jobfs.cli.install", "Let mount(8) and /etc/fstab find jobfs."),
    "systemd-unit": ("jobfs.cli.install", "Print a systemd user unit that mounts JOB at DIR."),
    "completion": ("jobfs.cli.install", "Print the completion script for bash, zsh or fish."),
    "emulator": ("jobfs.cli.emulator", "Serve the Workspace Instance API on this machine."),
}
#: Commands that no list shows: they are for developers of clients of the API.
UNLISTED = ("emulator",)
#: Words that people try, and the commands that they mean.
_ALSO = {"list": "status", "unmount": "umount"}
_JOB_ID = re.compile(r"[a-z0-9]{24}")
#: The names by which mount(8) and umount(8) call this program.
LINKS = ("mount.fuse.jobfs", "mount.jobfs", "umount.fuse.jobfs")


def translate_arguments(called: str, arguments: list[str]) -> list[str]:
    """Translate the command line that mount(8) uses into one of jobfs (vfs/semantics.md 6.2). Raises UsageError.

    mount(8) calls this program by one of `LINKS`, or else by its name in PATH, with a job id first:

        mount.fuse.jobfs JOB DIR [-snv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
        umount.fuse.jobfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]
    """
    name = os.path.basename(called)
    first = next(iter(arguments), "")
    if name not in LINKS or first[:1] in ("", "-"):
        return ["mount"] * bool(_JOB_ID.fullmatch(first)) + arguments
    mounting = name.startswith("mount")
    try:
        options, rest = getopt.gnu_getopt(arguments, "snvN:o:t:" if mounting else "flnrvcN:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error}: give settings as -o NAME=VALUE") from None
    if mounting:
        return ["mount", *rest, *(word for flag, value in options if flag == "-o" for word in (flag, value))]
    return ["umount", "--or-plainly", *["--lazy"] * (("-l", "") in options), *rest]


class _Commands(click.Group):
    """Loads a command when it is called, so that each starts fast, and a missing extra breaks only its own command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if name not in UNLISTED]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(
            importlib.import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_")
        )
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands only: with a section for options, which the usage line lists, the help would not fit one screen."""
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        begun = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        commands = [CompletionItem(name, help=COMMANDS[name][1]) for name in begun]
        # The base class would load every command for its help.
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = translate_arguments(sys.argv[0], args)
        if args[:1] == ["help"]:
            args = [*args[1:2], "--help"]
        args[:1] = [_ALSO.get(name, name) for name in args[:1]]
        return super().parse_args(ctx, args or ([] if ctx.resilient_parsing else ["--help"]))


@click.command(
    cls=_Commands,
    options_metavar="[--help] [--version]",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="jobfs")
def jobfs(**_: Any) -> None:
    """Mount the workspace of a running AI job as a directory."""
    _warn_of_unknown_variables()


def _warn_of_unknown_variables() -> None:
    """Print a warning for each variable JOBFS_… of the environment that is no setting, to stderr."""
    from jobfs.cli.screen import print_escaped
    from jobfs.settings import describe_unknown_variables

    for line in describe_unknown_variables():
        print_escaped(f"jobfs: {line}", err=True)

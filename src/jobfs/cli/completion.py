"""Completion in bash, zsh and fish: what arguments complete to, and `jobfs completion`, which prints the script for it."""

from __future__ import annotations

import shlex

import click
from click.shell_completion import CompletionItem, get_completion_class

from jobfs.mountpoint import mounts

SHELLS = ("bash", "zsh", "fish")


#: Any directory, or any file: the shell looks itself.
directories = click.Path(file_okay=False).shell_complete
files = click.Path().shell_complete


def mounted(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Directories where a job is mounted; if none of them begins so, any path: it may be inside a mount, or relative."""
    # bash takes what it is given unquoted; names that need quotes are left to its own completion of paths.
    kinds = {mount.point: mount.kind for mount in mounts()}
    points = [point for point, kind in kinds.items() if kind == "fuse.jobfs"]
    offered = [point for point in points if point.startswith(begun) and shlex.quote(point) == point]
    return [*map(CompletionItem, offered)] or files(context, parameter, begun)


def script(shell: str) -> str:
    """The script that makes one of `SHELLS` ask jobfs."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(click.Command("jobfs"), {}, "jobfs", "_JOBFS_COMPLETE").source()


@click.command("completion", short_help="Print what lets a shell complete jobfs.")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print the script that lets a shell complete commands, options, choices, paths and mounted directories.

    \b
    bash: add to ~/.bashrc      eval "$(jobfs completion bash)"
    zsh:  add to ~/.zshrc       autoload -Uz compinit; compinit
                                eval "$(jobfs completion zsh)"
    fish: run once              cd ~/.config/fish/completions
                                jobfs completion fish > jobfs.fish
    """
    click.echo(script(shell))

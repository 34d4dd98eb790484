"""`jobfs set PATH`: change what the server keeps beside a file's content."""

from __future__ import annotations

import click

from jobfs import control
from jobfs.cli.completion import files
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of
from jobfs.errors import FsError, UsageError
from jobfs.nodes import Lifecycle, Permission


@click.command("set", short_help="Change a file's permission or lifecycle on the server.")
@click.argument("path", shell_complete=files)
@click.option("--permission", type=click.Choice([str(value) for value in Permission]))
@click.option("--lifecycle", type=click.Choice([str(value) for value in Lifecycle]))
@state_dir_option
def set(path: str, permission: str | None, lifecycle: str | None, state_dir: str | None) -> int:
    """Change the permission or the lifecycle of the file or directory PATH in a mount.

    What is unsent of it is sent first. Returns when the server has it.
    """
    if permission is None and lifecycle is None:
        raise UsageError("nothing to change: give --permission or --lifecycle")
    found, inside = mount_of(path, state_dir)
    wanted = {"path": inside, "permission": permission, "lifecycle": lifecycle}
    try:
        control.call(found.path, "set", wanted, timeout=60.0)
    except FsError as error:
        raise FsError(error.errno, f"{path}: {error}") from None
    return 0

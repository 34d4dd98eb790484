"""`jobfs retry [PATH]`: try again at once what did not get through."""

from __future__ import annotations

import click

from jobfs import control
from jobfs.cli.completion import mounted_or_files
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of, mounts
from jobfs.cli.screen import tell
from jobfs.errors import UsageError


@click.command("retry", short_help="Try again to send what failed.")
@click.argument("path", required=False, metavar="[DIR|FILE]", shell_complete=mounted_or_files)
@state_dir_option
def retry(path: str | None, state_dir: str | None) -> int:
    """Send again what the server refused, or what waits for its next try, at PATH or in every mount.

    Returns at once: `jobfs flush` waits for the outcome, `jobfs status` shows it.
    """
    targets = [mount_of(path, state_dir)] if path else [(found, "") for found in mounts(state_dir)]
    if not targets:
        raise UsageError("no job is mounted")
    tried: list[str] = []
    for found, inside in targets:
        tried += control.call(found.path, "retry", {"path": inside or None})["paths"]
    for name in tried:
        tell(f"trying again: {name}")
    if not tried:
        tell("jobfs: nothing there has failed", err=True)
    return 0

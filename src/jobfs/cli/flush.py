"""`jobfs flush [DIR]`: return when the server has everything."""

from __future__ import annotations

import click

from jobfs import control
from jobfs.cli.completion import mounted_or_files
from jobfs.cli.options import state_dir_option
from jobfs.cli.progress import INTERRUPTED, sending
from jobfs.cli.running import mount_of, mounts
from jobfs.cli.screen import tell
from jobfs.draining import describe
from jobfs.errors import UsageError


@click.command("flush", short_help="Return when the server has everything.")
@click.argument("path", required=False, metavar="[DIR|FILE]", shell_complete=mounted_or_files)
@click.option("--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Give up after this long.")
@state_dir_option
def flush(path: str | None, timeout: float | None, state_dir: str | None) -> int:
    """Send what is unsent in DIR (any part of a mount), or in every mount, and return when the server has it.

    Exits with 0 if the server has everything, else with 1 and a list of what is left. Ctrl-C ends only this command,
    with 130: what is unsent goes on being sent.
    """
    targets = [mount_of(path, state_dir)] if path else [(found, "") for found in mounts(state_dir)]
    if not targets:
        raise UsageError("no job is mounted")
    left: list[object] = []
    try:
        for found, inside in targets:
            directory = found.record.directory if found.record else ""
            with sending(f"sending {directory}") as progress:
                args = {"path": inside or None, "timeout": timeout}
                left += control.call(found.path, "flush", args, timeout=30.0, progress=progress)["left"]
    except KeyboardInterrupt:
        tell(
            "jobfs: interrupted: what is unsent is in the journal, and the mount goes on sending it", err=True
        )
        return INTERRUPTED
    if left:
        tell(f"jobfs: not sent yet: {describe(left)}", err=True)
    return 1 if left else 0

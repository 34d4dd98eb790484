"""`jobfs discard PATH`: give up an unsent save; the server's version is shown again."""

from __future__ import annotations

from typing import Any

import click

from jobfs import control
from jobfs.cli.completion import files
from jobfs.cli.options import state_dir_option
from jobfs.cli.running import mount_of
from jobfs.cli.screen import shown, tell
from jobfs.draining import describe
from jobfs.errors import UsageError


@click.command("discard", short_help="Give up a save that was not sent.")
@click.argument("path", metavar="PATH", shell_complete=files)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@state_dir_option
def discard(path: str, yes: bool, state_dir: str | None) -> int:
    """Give up what is unsent at PATH, a file or a directory in a mount; the server's version is shown again.

    A copy of the bytes is kept in the state directory until the next clean unmount.
    """
    found, inside = mount_of(path, state_dir)
    unsent = _unsent(control.call(found.path, "status"), inside)
    if not unsent:
        raise UsageError(f"nothing is unsent at {path}")
    if not yes:
        click.confirm(shown(f"Give up what was written to {describe(unsent)}?"), abort=True)
    for name, kept in control.call(found.path, "discard", {"path": inside}, timeout=60.0)["given_up"]:
        tell(f"given up: {name}" + (f" (a copy is {kept})" if kept else ""))
    return 0


def _unsent(report: dict[str, Any], inside: str) -> list[dict[str, Any]]:
    entries = [*report.get("unsent", ()), *report.get("failed", ())]
    return [e for e in entries if not inside or e["path"] == inside or e["path"].startswith(inside + "/")]

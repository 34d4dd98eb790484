"""`jobfs umount DIR`: send what is unsent, then unmount."""

from __future__ import annotations

import os
from typing import Any

import click

from jobfs import control
from jobfs.cli.options import state_dir_option
from jobfs.cli.preflight import mount_points
from jobfs.cli.progress import sending
from jobfs.cli.running import mount_of
from jobfs.errors import UsageError
from jobfs.mount import describe, unmount
from jobfs.state.directory import wait_until_free


@click.command("umount", short_help="Send what is unsent, then unmount DIR.")
@click.argument("directory", metavar="DIR")
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Unmount after this long even if not everything is sent.  [default: as long as the server answers]",
)
@state_dir_option
def umount(directory: str, timeout: float | None, state_dir: str | None) -> int:
    """Send what is unsent at the mount DIR, then unmount it.

    Exits with 0 if the server has everything, with 1 if something is left, which is listed and kept for the
    next mount of that job. Ctrl-C leaves the mount as it is.
    """
    try:
        found, inside = mount_of(directory, state_dir)
    except UsageError:
        return _unmount_plainly(directory)
    if inside:
        raise UsageError(f"{directory} lies in a mount: give the mount point itself")
    with sending("sending") as progress:
        answer: dict[str, Any] = control.call(
            found.path, "umount", {"timeout": timeout}, timeout=30.0, progress=progress
        )
    # So that the next mount finds the slot free.
    wait_until_free(found, 15.0)
    if answer.get("note"):
        click.echo(f"jobfs: {answer['note']}", err=True)
    left = answer["left"]
    if left:
        click.echo(f"jobfs: not sent yet, kept for the next mount of this job: {describe(left)}", err=True)
    return 1 if left else 0


def _unmount_plainly(directory: str) -> int:
    """Unmount what no process serves any more."""
    path = os.path.abspath(directory)
    points = mount_points()
    kind = points.get(path) or points.get(os.path.realpath(path))
    if kind is None:
        raise UsageError(f"nothing is mounted at {directory}")
    if kind != "fuse.jobfs":
        raise UsageError(f"what is mounted at {directory} is not a job: umount {directory}")
    unmount(path)
    click.echo(
        f"jobfs: no process served {directory}; the next mount of that job sends what is left", err=True
    )
    return 0

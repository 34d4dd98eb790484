"""`jobfs umount DIR`: send what is unsent, then unmount."""

from __future__ import annotations

import os
from typing import Any

import click

from jobfs import control
from jobfs.cli.options import state_dir_option
from jobfs.cli.preflight import is_stale
from jobfs.cli.progress import sending
from jobfs.cli.running import mount_of
from jobfs.cli.screen import tell
from jobfs.draining import describe
from jobfs.errors import UsageError
from jobfs.mountpoint import BusyError, MountInfo, mount_at, unmount
from jobfs.private import user_name
from jobfs.state.directory import wait_until_free

#: Seconds that a mount which has answered takes to end.
_ENDING = 15.0


@click.command("umount", short_help="Send what is unsent, then unmount DIR.")
@click.argument("directory", metavar="DIR")
@click.option(
    "-l",
    "--lazy",
    is_flag=True,
    help="Detach DIR now, though files are open in it; it ends when they are closed and sent.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="End after this long even if not everything is sent.  [default: as long as the server answers]",
)
@state_dir_option
def umount(directory: str, lazy: bool, timeout: float | None, state_dir: str | None) -> int:
    """Send what is unsent at the mount DIR, then unmount it.

    Exits with 0 if the server has everything; with 1 if something is left, which is listed and kept for the next
    mount of that job, or if programs have files open in DIR: they are named, and it stays mounted. Ctrl-C leaves the
    mount as it is.
    """
    try:
        found, inside = mount_of(directory, state_dir)
    except UsageError:
        return _unmount_plainly(directory)
    if inside:
        raise UsageError(f"{directory} lies in a mount: give the mount point itself")
    # This command is not what keeps it busy.
    os.chdir("/")
    with sending("sending") as progress:
        answer: dict[str, Any] = control.call(
            found.path,
            "umount",
            {"timeout": timeout, "lazy": lazy},
            timeout=30.0,
            progress=progress,
            say=lambda sentence: tell(f"jobfs: {sentence}", err=True),
        )
    left = answer["left"]
    if "goes_on" in answer:
        still = f"; still open there: {answer['open']}" if answer["open"] else ""
        unsent = f"; not sent yet: {describe(left)}" if left else ""
        tell(
            f"jobfs: {directory} is detached, and process {answer['goes_on']} goes on until everything is closed and "
            f"sent{still}{unsent}",
            err=True,
        )
        return 1
    # So that the next mount finds the slot free.
    wait_until_free(found, _ENDING)
    if left:
        tell(f"jobfs: not sent yet, kept for the next mount of this job: {describe(left)}", err=True)
    return 1 if left else 0


def _unmount_plainly(directory: str) -> int:
    """Unmount what no process of this user serves any more."""
    path = os.path.abspath(directory)
    there = mount_at(path) or mount_at(os.path.realpath(path))
    if there is None:
        raise UsageError(f"nothing is mounted at {directory}")
    if there.kind != "fuse.jobfs":
        raise UsageError(f"what is mounted at {directory} is not a job: umount {directory}")
    if not is_stale(there.point):
        raise UsageError(_why_not(directory, there))
    try:
        unmount(there.point)
    except BusyError:
        # Whatever is open there gets nothing but errors.
        unmount(there.point, lazy=True)
    tell(f"jobfs: no process served {directory}; the next mount of that job sends what is left", err=True)
    return 0


def _why_not(directory: str, there: MountInfo) -> str:
    if there.user is not None and there.user != os.geteuid():
        return f"{directory} was mounted by {user_name(there.user)}: jobfs umount {directory} as that user"
    return (
        f"the process that serves {directory} can't be found: give the --state-dir it was mounted with, "
        f"or end it with fusermount -u {directory}; it sends what is left"
    )

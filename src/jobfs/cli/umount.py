"""`jobfs umount DIR`: send what is unsent, then unmount."""

from __future__ import annotations

import os
import sys
from operator import attrgetter
from typing import Any

import click

from jobfs import control
from jobfs.cli.options import complete_mounted, reject_empty, state_dir_option
from jobfs.cli.running import (
    describe_dead,
    describe_leftovers,
    find_ended,
    find_mount_of,
    mount_point_of,
    running_mounts,
)
from jobfs.cli.screen import confirm, print_escaped, print_sentence, show_progress
from jobfs.control import NoMountError
from jobfs.document import describe_kept, describe_paths
from jobfs.errors import JobfsError, UsageError
from jobfs.mountpoint import MountInfo, find_mount_at, is_dead, unmount
from jobfs.settings import shell_command
from jobfs.state.directory import FoundDirectory, is_in_use

#: Seconds within which a mount that has answered must end.
_ENDING = 15.0


@click.command("umount")
@click.argument(
    "directory", callback=reject_empty, metavar="DIR", required=False, shell_complete=complete_mounted
)
@click.option(
    "-a", "--all", "every", is_flag=True,
    help="Unmount every job that this user has mounted; on a terminal, ask first if there are several.",
)  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "-l", "--lazy", is_flag=True,
    help="Detach DIR now, even if files are open; the mount ends when they are closed and sent.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="SECONDS",
    help="Unmount after this long, even with unsent files.  [default: wait as long as the server answers]",
)  # fmt: skip
@click.option("--or-plainly", "plainly", is_flag=True, hidden=True, help="How umount(8) calls it.")
@state_dir_option
def umount(
    directory: str | None,
    every: bool,
    yes: bool,
    lazy: bool,
    timeout: float | None,
    plainly: bool,
    state_dir: str | None,
) -> int:
    """Send unsent files of the mount at DIR, then unmount it.

    Exits with 0 if the server has everything. Exits with 1 if files are left unsent: they are listed, and kept for the next
    mount of that job. Exits with 1, too, if programs have files open in DIR: they are named, and DIR stays mounted. Ctrl-C
    ends only this command, with 130: DIR stays mounted, and the mount continues sending.
    """
    if every == (directory is not None):
        raise UsageError("give the DIR to unmount, or --all")
    if directory is None:
        return _unmount_every(yes, lazy, timeout, state_dir)
    if plainly:
        # If no mount of this user serves the directory, umount(8) unmounts it as it would without a helper.
        try:
            find_mount_of(directory, None)
        except UsageError:
            os.execvp("umount", ["umount", "-i", *(["-l"] if lazy else []), "--", directory])
    return _unmount(directory, lazy, timeout, state_dir)


def _unmount_every(yes: bool, lazy: bool, timeout: float | None, state_dir: str | None) -> int:
    """Name every mount, and unmount one after another. If one fails, the others are still unmounted."""
    dead = filter(attrgetter("dead"), find_ended(state_dir))
    found = [*running_mounts(state_dir), *(each.found for each in dead)]
    if not found:
        print_escaped("jobfs: no job is mounted", err=True)
    for one in found:
        print_escaped(f"to be unmounted: {one.path.parent.name} at {mount_point_of(one)}")
    asks = len(found) > 1 and sys.stdin.isatty() and not yes
    if asks and not confirm(f"Unmount these {len(found)}?"):
        print_escaped("nothing was unmounted")
        return 1
    worst = 0
    for directory in map(mount_point_of, found):
        try:
            worst = max(worst, _unmount(directory, lazy, timeout, state_dir))
        except JobfsError as error:
            worst = _report_leftovers(str(error))
    return worst


def _unmount(directory: str, lazy: bool, timeout: float | None, state_dir: str | None) -> int:
    try:
        found, inside = find_mount_of(directory, state_dir)
    except UsageError:
        there = find_mount_at(os.path.realpath(directory))
        if there is None or there.kind != "fuse.jobfs" or not is_dead(there.point):
            raise
        return _unmount_dead(there, state_dir)
    if inside:
        raise UsageError(f"{directory} is inside a mount: give the mount point itself")
    os.chdir("/")  # this command must not keep the mount busy itself
    try:
        with show_progress(f"sending {mount_point_of(found)}") as progress:
            answer: dict[str, Any] = control.call_mount(
                found.path,
                "umount",
                {"timeout": timeout, "lazy": lazy},
                on_progress=progress,
                on_sentence=print_sentence,
            )
    except NoMountError:
        return _exit_code_of_ended(found, state_dir)
    left = answer["left"]
    if "goes_on" in answer:
        open_there = f"; still open: {answer['open']}" if answer["open"] else ""
        unsent = f"; {len(left)} unsent: {describe_paths(left)}" if left else ""
        return _report_leftovers(
            f"{directory} is detached; process {answer['goes_on']} continues until everything is closed and "
            f"sent{open_there}{unsent}"
        )
    # Wait, so that the next mount finds the state directory free.
    is_in_use(found, _ENDING)
    return _report_leftovers(describe_kept(left))


def _exit_code_of_ended(found: FoundDirectory, state_dir: str | None) -> int:
    """Return the exit code for a mount that ended before it could answer. Raises NoMountError if it has not ended."""
    if is_in_use(found, _ENDING):
        raise NoMountError(f"the mount at {mount_point_of(found)} does not answer")
    there = find_mount_at(mount_point_of(found))
    if there is not None and is_dead(there.point):
        return _unmount_dead(there, state_dir)
    return _report_leftovers(describe_leftovers(found))


def _report_leftovers(leftovers: str) -> int:
    """Print what is left or wrong, if anything; return the exit code."""
    if leftovers:
        print_escaped(f"jobfs: {leftovers}", err=True)
    return 1 if leftovers else 0


def _unmount_dead(mount: MountInfo, state_dir: str | None) -> int:
    """Unmount a mount whose process is gone. Return 1 if it has left something unsent, or if that is not known."""
    known = [each for each in find_ended(state_dir) if each.dead and each.directory == mount.point]
    # Lazily, for programs may have files open there; they only get errors from them.
    unmount(mount.point, lazy=True)
    left = known[0].leftovers if known else "files that are not known here"
    recovery = known[0].recovery_command if known else shell_command("recover", mount.source)
    becomes = f"; it has left {left}: mount the job again, or run {recovery}" if left else ""
    print_escaped(f"jobfs: {describe_dead(mount.point)}: its dead mount was removed{becomes}", err=True)
    return 1 if left else 0

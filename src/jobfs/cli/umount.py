"""`jobfs umount DIR`: send what is unsent, then unmount."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from jobfs import control
from jobfs.cli.completion import mounted
from jobfs.cli.options import not_empty, state_dir_option
from jobfs.cli.running import dead_mounts, directory_of, gone, left_by, mount_of, mounts, why_not_found
from jobfs.cli.screen import INTERRUPTED, confirmed, sending, tell
from jobfs.control import NoMountError
from jobfs.draining import kept, outstanding
from jobfs.errors import JobfsError, UsageError
from jobfs.mountpoint import is_dead, mount_at, open_files, unmount, uses_of
from jobfs.state.directory import Found, in_use

#: Seconds that a mount which has answered takes to end.
_ENDING = 15.0


@click.command("umount", short_help="Send what is unsent, then unmount DIR.")
@click.argument("directory", callback=not_empty, metavar="DIR", required=False, shell_complete=mounted)
@click.option(
    "-a", "--all", "every", is_flag=True,
    help="Unmount every job that this user has mounted; on a terminal, ask first if there are several.",
)  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "-l", "--lazy", is_flag=True,
    help="Detach DIR now, though files are open in it; it ends when they are closed and sent.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.FloatRange(0), metavar="SECONDS",
    help="End after this long even if not everything is sent.  [default: as long as the server answers]",
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
    """Send what is unsent at the mount DIR, then unmount it.

    Exits with 0 if the server has everything; with 1 if something is left, which is listed and kept for the next
    mount of that job, or if programs have files open in DIR: they are named, and it stays mounted. Ctrl-C ends only
    this command, with 130: DIR stays mounted, and what is unsent goes on being sent.
    """
    if every == (directory is not None):
        raise UsageError("give the DIR to unmount, or --all")
    if directory is None:
        return _unmount_every(yes, lazy, timeout, state_dir)
    if plainly:
        # What umount(8) wants to have unmounted and no mount of this user serves goes as without a helper.
        try:
            mount_of(directory, None)
        except UsageError:
            os.execvp("umount", ["umount", "-i", *(["-l"] if lazy else []), "--", directory])
    return _unmount(directory, lazy, timeout, state_dir)


def _unmount_every(yes: bool, lazy: bool, timeout: float | None, state_dir: str | None) -> int:
    """Name every mount, and unmount one after another; what one of them is refused for keeps no other from it."""
    found = [*mounts(state_dir), *dead_mounts(state_dir).values()]
    if not found:
        tell("jobfs: no job is mounted", err=True)
    for one in found:
        tell(f"to be unmounted: {one.path.parent.name} at {directory_of(one)}")
    if len(found) > 1 and sys.stdin.isatty() and not (yes or confirmed(f"Unmount these {len(found)}?")):
        tell("nothing was unmounted")
        return 1
    worst = 0
    for directory in map(directory_of, found):
        try:
            code = _unmount(directory, lazy, timeout, state_dir)
        except JobfsError as error:
            tell(f"jobfs: {error}", err=True)
            code = 1
        if code == INTERRUPTED:
            return code
        worst = max(worst, code)
    return worst


def _unmount(directory: str, lazy: bool, timeout: float | None, state_dir: str | None) -> int:
    try:
        found, inside = mount_of(directory, state_dir)
    except UsageError:
        return _unmount_plainly(directory, state_dir)
    if inside:
        raise UsageError(f"{directory} lies in a mount: give the mount point itself")
    _let_go(found, directory)
    try:
        with sending(f"sending {directory_of(found)}") as progress:
            answer: dict[str, Any] = control.call(
                found.path,
                "umount",
                {"timeout": timeout, "lazy": lazy},
                progress=progress,
                say=lambda sentence: tell(f"jobfs: {sentence}", err=True),
            )
    except KeyboardInterrupt:
        state = "stays mounted" if mount_at(directory_of(found)) is not None else "is unmounted"
        tell(
            f"jobfs: interrupted: {directory} {state}, and what is unsent goes on being sent; "
            "it is in the journal, and nothing is lost",
            err=True,
        )
        return INTERRUPTED
    except NoMountError as error:
        return _code_after_the_end(found, state_dir, error)
    left = answer["left"]
    if "goes_on" in answer:
        still = f"; still open there: {answer['open']}" if answer["open"] else ""
        unsent = f"; {outstanding(left)}" if left else ""
        tell(
            f"jobfs: {directory} is detached, and process {answer['goes_on']} goes on until everything is closed and "
            f"sent{still}{unsent}",
            err=True,
        )
        return 1
    # Waits, so that the next mount finds the slot free.
    in_use(found, _ENDING)
    if left:
        tell(f"jobfs: {kept(left)}", err=True)
    return 1 if left else 0


def _let_go(found: Found, directory: str) -> None:
    """This command is not what keeps a mount busy. Raises JobfsError if it has to be."""
    os.chdir("/")
    there = mount_at(directory_of(found))
    if there is None:
        return
    for number, _ in open_files("self", there):
        if number > 2:  # of whoever called this, as a shell that has it open
            os.close(number)
    if own := uses_of("self", there):
        used = f"this command itself uses {', '.join(own)} in {directory}"
        raise JobfsError(f"{used}: run it with its output elsewhere")


def _code_after_the_end(found: Found, state_dir: str | None, error: NoMountError) -> int:
    """It was ending before it could answer: what it has left on the disk tells. Raises `error` if it goes on, or nobody knows."""
    if in_use(found, _ENDING):
        raise error
    if is_dead(directory_of(found)):
        return _unmount_plainly(directory_of(found), state_dir)
    if left := left_by(found):
        tell(f"jobfs: {left}", err=True)
    return 1 if left else 0


def _unmount_plainly(directory: str, state_dir: str | None) -> int:
    """Unmount what no process of this user serves any more: 1 if that has left something to be sent, or nobody knows."""
    path = os.path.abspath(directory)
    there = mount_at(path) or mount_at(os.path.realpath(path))
    if there is None:
        raise UsageError(f"nothing is mounted at {directory}")
    if there.kind != "fuse.jobfs":
        raise UsageError(f"what is mounted at {directory} is not a job: umount {directory}")
    if not is_dead(there.point):
        raise UsageError(why_not_found(directory, there, state_dir))
    found = dead_mounts(state_dir).get(there.point)
    # What is open there gets nothing but errors.
    unmount(there.point, lazy=True)
    left = "what is not known here" if found is None else left_by(found)
    becomes = (
        f"it has left {left}: mount the job again, or jobfs recover {there.source}"
        if left
        else "it had left nothing to send"
    )
    tell(f"jobfs: {gone(directory)}: its dead mount was taken away; {becomes}", err=True)
    return 1 if left else 0

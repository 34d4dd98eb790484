"""`jobfs restore FILE`: what was saved last in a file, whatever has become of it (vfs/semantics.md 4, Kept saves)."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from jobfs import control
from jobfs.cli.options import files, not_empty, state_dir_option
from jobfs.cli.replacing import print_beside, replace_file
from jobfs.cli.running import directory_of, ended_at, is_attached, mount_of
from jobfs.errors import UsageError
from jobfs.names import within
from jobfs.state import directory as slot
from jobfs.state.copies import SAVES, SAVES_LAST, CopyStore, content_of


@click.command("restore")
@click.argument("file", callback=not_empty, metavar="FILE", shell_complete=files)
@click.option("--in-place", is_flag=True, help="Put it back into FILE.")
@click.option("--forget", is_flag=True, help="Remove what is kept of FILE, and print nothing.")
@state_dir_option
def restore(file: str, in_place: bool, forget: bool, state_dir: str | None) -> int:
    """Print the last save of FILE that the server got, from a mount that runs or has ended, whatever the job has done since.

    Nothing is changed without --in-place. Then FILE gets it as by an editor's save: if the job has put a version there
    that nobody here has read, that stays beside it. Of 1,000 files (--keep-saves) the last save is kept in the state
    directory, for 30 days: 256 MiB together, none over 64 MiB, nothing empty. It goes when you delete the file.
    """
    if in_place and forget:
        raise UsageError("--in-place and --forget exclude each other")
    if os.path.isdir(file):
        raise UsageError(f"{file} is a directory: give a file")
    places, runs = _places(file, state_dir)
    if forget:
        if not sum(_forget(*place, runs=runs) for place in places):
            raise _gone(file)
        return 0
    data = _saved(file, places)
    if not in_place:
        print_beside(file, data)
    elif runs:
        found, inside = places[0]
        replace_file(_in_mount(file, found), data, lambda: _put_back(found, inside))
    else:
        raise UsageError(f"no job is mounted at {file}: mount it, or print what is kept without --in-place")
    return 0


def _places(file: str, state_dir: str | None) -> tuple[list[tuple[slot.Found, str]], bool]:
    """Return the mounts that may keep a save of a file, with its path in each, and whether they run. Raises UsageError."""
    try:
        return [mount_of(file, state_dir)], True
    except UsageError:
        if ended := ended_at(file, state_dir):
            return ended, False
        raise


def _gone(file: str) -> UsageError:
    return UsageError(f"what you saved in {file} is no longer here")


def _saved(file: str, places: list[tuple[slot.Found, str]]) -> bytes:
    """Return what the first of these mounts that has a save of the file keeps. Raises UsageError if none has."""
    for found, inside in places:
        data = content_of(found.path / SAVES, inside, lasts=SAVES_LAST)
        if data is not None:
            return data
    raise _gone(file)


def _in_mount(file: str, found: slot.Found) -> Path:
    """Return the file's path in a mount: a link to the file stays a link. Raises UsageError if nothing is mounted there."""
    if not is_attached(found):
        raise UsageError(f"{directory_of(found)} is unmounted: mount the job there again")
    path = os.path.abspath(file)
    return Path(path if within(path, directory_of(found)) else os.path.realpath(file))


def _put_back(found: slot.Found, inside: str) -> None:
    control.call(found.path, "put_back", {"path": inside, "pid": os.getpid()})


def _forget(found: slot.Found, inside: str, *, runs: bool) -> bool:
    """Remove what a mount keeps of a file; False if it keeps nothing. Raises UsageError, NoMountError."""
    if runs:
        return bool(control.call(found.path, "forget", {"path": inside})["known"])
    place = slot.reopen(found, "")
    try:
        with closing(CopyStore(found.path / SAVES, most=sys.maxsize)) as saves:
            return saves.drop(inside)
    finally:
        place.close()

"""`jobfs restore FILE`: the last save of a file, even if the job has changed the file since (vfs/semantics.md 4, Kept saves)."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import click

from jobfs import control
from jobfs.cli.options import complete_files, reject_empty, state_dir_option
from jobfs.cli.output import print_unless_same_file, replace_file
from jobfs.cli.running import find_ended_at, find_mount_of, is_still_mounted, mount_point_of
from jobfs.errors import UsageError
from jobfs.names import is_at_or_below
from jobfs.state import directory as directories
from jobfs.state.copies import SAVES, SAVES_LIFETIME, CopyStore, read_copy


@click.command("restore")
@click.argument("file", callback=reject_empty, metavar="FILE", shell_complete=complete_files)
@click.option("--in-place", is_flag=True, help="Put the save back into FILE.")
@click.option("--forget", is_flag=True, help="Delete the kept save of FILE, and print nothing.")
@state_dir_option
def restore(file: str, in_place: bool, forget: bool, state_dir: str | None) -> int:
    """Print your last save of FILE that the server has received, even if the job has changed FILE since, or the mount has ended.

    Nothing is changed without --in-place. With it, the save is written to FILE as by an editor: if the job has written a
    version there that nobody here has read, that version is kept beside FILE. The state directory keeps the last save of each
    of 1,000 files (--keep-saves) for 30 days: 256 MiB in total, no file over 64 MiB, no empty file. If you delete the file,
    its save is deleted, too.
    """
    if in_place and forget:
        raise UsageError("--in-place and --forget exclude each other")
    if os.path.isdir(file):
        raise UsageError(f"{file} is a directory: give a file")
    places, runs = _find_mounts_with_saves(file, state_dir)
    if forget:
        if not sum(_drop_save_copy(*place, runs=runs) for place in places):
            raise _no_save_error(file)
        return 0
    data = _read_save(file, places)
    if not in_place:
        print_unless_same_file(file, data)
    elif runs:
        found, inside = places[0]
        replace_file(_path_in_mount(file, found), data, lambda: _announce_restore(found, inside))
    else:
        raise UsageError(
            f"no job is mounted at {file}: mount the job, or leave out --in-place to print the save"
        )
    return 0


def _find_mounts_with_saves(
    file: str, state_dir: str | None
) -> tuple[list[tuple[directories.FoundDirectory, str]], bool]:
    """Return the mounts that may keep a save of a file, each with its path inside, and whether they run. Raises UsageError."""
    try:
        return [find_mount_of(file, state_dir)], True
    except UsageError:
        if ended := find_ended_at(file, state_dir):
            return ended, False
        raise


def _no_save_error(file: str) -> UsageError:
    return UsageError(f"no save of {file} is kept on this machine")


def _read_save(file: str, places: list[tuple[directories.FoundDirectory, str]]) -> bytes:
    """Return the save from the first of these mounts that keeps one. Raises UsageError if none does."""
    for found, inside in places:
        data = read_copy(found.path / SAVES, inside, lifetime=SAVES_LIFETIME)
        if data is not None:
            return data
    raise _no_save_error(file)


def _path_in_mount(file: str, found: directories.FoundDirectory) -> Path:
    """Return the file's path in a mount. Raises UsageError if the job is not mounted there.

    A link from outside the mount is resolved, so that the file is replaced and not the link.
    """
    if not is_still_mounted(found):
        raise UsageError(f"{mount_point_of(found)} is unmounted: mount the job there again")
    path = os.path.abspath(file)
    return Path(path if is_at_or_below(path, mount_point_of(found)) else os.path.realpath(file))


def _announce_restore(found: directories.FoundDirectory, inside: str) -> None:
    control.call_mount(found.path, "put_back", {"path": inside, "pid": os.getpid()})


def _drop_save_copy(found: directories.FoundDirectory, inside: str, *, runs: bool) -> bool:
    """Remove the save that a mount keeps of a file; return whether it kept one. Raises UsageError, NoMountError."""
    if runs:
        return bool(control.call_mount(found.path, "forget", {"path": inside})["known"])
    place = directories.reopen_state_directory(found, "")
    try:
        with closing(CopyStore(found.path / SAVES, max_files=sys.maxsize)) as saves:
            return saves.drop(inside)
    finally:
        place.close()

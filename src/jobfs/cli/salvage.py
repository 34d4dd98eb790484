"""`jobfs recover JOB --save TO`: copy unsent files of ended mounts, without the server.

Implements vfs/semantics.md 6, Unsent files without a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from jobfs import names
from jobfs.cli.running import mount_point_of
from jobfs.cli.screen import format_size, print_escaped
from jobfs.errors import UsageError
from jobfs.names import quote_for_shell
from jobfs.state import directory as directories
from jobfs.state.destination import Destination
from jobfs.state.salvage import UnsentEntry, list_local_bytes, read_unsent


def save_unsent(state_dir: Path, job: str, to: Path) -> int:
    """Copy the unsent files of ended mounts of the job to `to`; return the exit code. Raises UsageError."""
    _check_destination(to, state_dir)
    copies, whole = UnsentCopier(to), True
    for found in directories.find_of_job(state_dir, job):
        whole &= _copy_from_mount(found, copies)
    if copies.count:
        print_escaped(f"{copies.count} copied to {to}")
    elif whole:
        print_escaped(f"nothing to copy: {state_dir} has no unsent files of job {job}")
    return 0 if whole and copies.sync() else 1


def _check_destination(to: Path, state_dir: Path) -> None:
    """Raise UsageError if nothing can be copied to `to`."""
    if os.path.lexists(to) and not to.is_dir():
        raise UsageError(f"{to} is not a directory: give --save a directory, or a new name")
    if Path(os.path.realpath(to)).is_relative_to(os.path.realpath(state_dir)):
        raise UsageError(
            f"{to} is inside the state directory, where the next mount deletes it: give --save another directory"
        )


def _copy_from_mount(found: directories.FoundDirectory, copies: UnsentCopier) -> bool:
    """Copy the unsent files of one mount; return whether all were copied."""
    where = mount_point_of(found) or str(found.path)
    try:
        with directories.exclude_mounts(found) as ended:
            if ended:
                return copies.copy_all(_list_unsent(found, where), found.path.name, where)
        print_escaped(
            f"jobfs: the mount at {where} is running, and sends its own files: they are not copied", err=True
        )
    except OSError as error:
        print_escaped(f"jobfs: can't copy the files of the mount at {where}: {error.strerror}", err=True)
    return False


def _list_unsent(found: directories.FoundDirectory, mount_point: str) -> list[UnsentEntry]:
    """Return the unsent files of a mount, with their names if its journal can be read. Raises OSError."""
    try:
        return read_unsent(found.path)
    except UsageError as error:
        numbered = list_local_bytes(found.path)
        if numbered:
            print_escaped(
                f"jobfs: the mount at {mount_point}: {error}: its files are copied under their numbers",
                err=True,
            )
        return numbered


class UnsentCopier:
    """Copies unsent files, and remembers their paths: files of several mounts at one path get different places."""

    def __init__(self, to: Path) -> None:
        self.count = 0
        self._to = Destination(to)
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def copy_all(self, entries: Iterable[UnsentEntry], mount: str, mount_point: str) -> bool:
        """Copy the unsent files of the mount with the id `mount`, and print a line for each; return whether all were copied."""
        outcomes = [
            self._copy_and_report(unsent, *self._choose_path(unsent, mount, mount_point))
            for unsent in entries
        ]
        return all(outcomes)

    def sync(self) -> bool:
        """Sync the copies to the disk; return whether that succeeded."""
        try:
            self._to.sync()
        except OSError as error:
            print_escaped(f"jobfs: can't sync the copies to the disk: {error.strerror}", err=True)
            return False
        return True

    def _choose_path(self, unsent: UnsentEntry, mount: str, mount_point: str) -> tuple[str, str]:
        """Return the path for a copy, and why it is not the path that its program used; "" if it is."""
        number = f"{mount}/{unsent.source.name}" if unsent.source else ""
        if not unsent.path:
            return number, "its name is not known"
        if why := names.hostile_reason(unsent.path):
            return number, f"its path {quote_for_shell(unsent.path)} {why}"
        if self._is_taken(unsent):
            return f"{mount}/{unsent.path}", f"{quote_for_shell(unsent.path)} of the mount at {mount_point}"
        return unsent.path, unsent.reason

    def _is_taken(self, unsent: UnsentEntry) -> bool:
        """Return whether another copy has this path, or whether one of the two is a file where the other needs a directory."""
        file_in_way = not self._files.isdisjoint({unsent.path, *_directories_above(unsent.path)})
        return file_in_way or (unsent.source is not None and unsent.path in self._directories)

    def _copy_and_report(self, unsent: UnsentEntry, path: str, reason: str) -> bool:
        """Copy one file or directory to `path`, and print a line; return whether that succeeded."""
        try:
            if not path:
                raise OSError(0, reason)  # a directory has no number to copy it under
            amount = self._write_copy(unsent, path)
        except OSError as error:
            why = f"{self._to.top / path} exists" if isinstance(error, FileExistsError) else error.strerror
            print_escaped(f"jobfs: {quote_for_shell(path or unsent.path)} is not copied: {why}", err=True)
            return False
        self.count += 1
        self._directories.update(_directories_above(path))
        print_escaped(f"copied: {quote_for_shell(path)}{amount}{f': {reason}' if reason else ''}")
        return True

    def _write_copy(self, unsent: UnsentEntry, path: str) -> str:
        """Copy one file or directory; return its size in words. Raises OSError."""
        if unsent.source is None:
            self._to.make_directory(path, unsent.mode)
            self._directories.add(path)
            return "/"
        # Recorded even if the copy fails: another mount's file at this path gets another place in any case.
        self._files.add(path)
        copied = self._to.copy(path, unsent.source, unsent.size, unsent.mode, unsent.mtime_ns)
        return f" ({format_size(copied)})"


def _directories_above(path: str) -> set[str]:
    """Return the directories above a path, without the top."""
    found = set[str]()
    while path := names.parent(path):
        found.add(path)
    return found

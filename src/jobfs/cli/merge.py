"""`jobfs merge FILE`: merge the conflict copies of a file into it, all of them or none (vfs/semantics.md 4, Merging)."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from jobfs import control
from jobfs.cli.options import complete_files, reject_empty, state_dir_option
from jobfs.cli.output import (
    make_chmod_needed_error,
    make_write_error,
    print_unless_same_file,
    replace_file,
    sync_file,
)
from jobfs.cli.running import find_mount_of
from jobfs.cli.screen import format_count, print_escaped
from jobfs.errors import FsError, UsageError
from jobfs.names import parse_second_version, second_version_order
from jobfs.nodes import Permission, Version
from jobfs.settings import format_size, shell_command
from jobfs.state import directory as directories
from jobfs.state.copies import BASES, read_copy

#: The largest version in bytes, and the seconds that one run of git may take.
_LARGEST, _PATIENCE = 16 << 20, 30.0
#: How many times a version is read if it changes during the read.
_READS = 3


class CannotMergeError(Exception):
    """One conflict copy can't be merged; the message says why."""


class _MountedFile(NamedTuple):
    """A file in a mount, its path inside the mount, and the mount's state directory."""

    file: Path
    relative_path: str
    slot_path: Path

    def call_mount(self, call: str, **args: Any) -> Any:
        """Make a call about this file to its mount. Raises FsError, NoMountError."""
        return control.call_mount(self.slot_path, call, {"path": self.relative_path, **args})

    def is_read_only(self) -> bool:
        """Return whether the file is `readOnly` on the server."""
        return bool(self.call_mount("info").get("permission") == Permission.READ_ONLY)

    def sibling(self, name: str) -> _MountedFile:
        """Return another file in the same directory."""
        return self._replace(
            file=self.file.with_name(name), relative_path=str(Path(self.relative_path).with_name(name))
        )


class _MergeResult(NamedTuple):
    """The outcome of git's merge of three versions: the bytes, and in how many places both sides changed the same lines."""

    data: bytes
    overlap_count: int


@click.command("merge")
@click.argument("file", callback=reject_empty, metavar="FILE", shell_complete=complete_files)
@click.option("-n", "--dry-run", is_flag=True, help="Only print the result, with git's conflict markers.")
@state_dir_option
def merge(file: str, dry_run: bool, state_dir: str | None) -> int:
    """Merge the conflict copies of FILE in a mount into FILE, the oldest first, and delete them once the server has the result.

    git merges each copy, based on the version that both sides started from. Nothing is changed if both sides changed the
    same lines, if a version is binary or larger than 16 MiB, or if the version that both started from is not on this
    machine. Then each copy that can't be merged is named, with the reason, and the exit code is 1. The exit code is 2 if
    FILE can't be merged at all.
    """
    target = _find_mounted_file(file, state_dir)
    if shutil.which("git") is None:
        raise UsageError("merging needs git: install the package git")
    copies = _find_copies(target)
    if not copies:
        print_escaped(f"jobfs: {file} has no conflict copies", err=True)
        return 0
    if not dry_run:
        _check_writable(target, copies)
    before, ours = _read_consistent(target)
    if len(ours) > _LARGEST:
        raise FsError(errno.EFBIG, f"{file} is larger than {format_size(_LARGEST)}: nothing is merged")
    merged, versions, reasons = _merge_copies(target, ours, copies, marks=dry_run)
    for reason in reasons:
        print_escaped(f"jobfs: {reason}", err=True)
    if dry_run:
        print_unless_same_file(file, merged)
    elif not reasons:
        return _save_and_delete_copies(target, before, merged, versions)
    return 1 if reasons else 0


def _find_mounted_file(file: str, state_dir: str | None) -> _MountedFile:
    """Find a file in its mount. Raises UsageError if `file` is not a regular file in a mount."""
    found, inside = find_mount_of(file, state_dir)
    if os.path.isdir(file):
        raise UsageError(f"{file} is a directory: give a file")
    if not os.path.isfile(file) or os.path.islink(file):
        raise UsageError(f"{file} is not a file in the job: give a file in the mount")
    return _MountedFile(Path(os.path.abspath(file)), inside, found.path)


def _find_copies(target: _MountedFile) -> list[_MountedFile]:
    """Return the conflict copies of a file, oldest first. Raises FsError if one of them has copies itself."""
    name = target.file.name
    listed = _list_directory(target.file.parent)
    beside = {each: kept for each in listed if (kept := parse_second_version(each, listed))}
    own = [each for each, kept in beside.items() if kept == ("conflict", name)]
    for each in own:
        if ("conflict", each) in beside.values():
            copy = target.file.with_name(each)
            raise FsError(
                errno.EBUSY,
                f"{copy} has conflict copies itself: run {shell_command('merge', str(copy))} first",
            )
    return [target.sibling(each) for each in sorted(own, key=second_version_order)]


def _list_directory(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        raise make_write_error(directory, error) from None


def _check_writable(target: _MountedFile, copies: list[_MountedFile]) -> None:
    """Raise UsageError if the mount is read-only, or one of these files is."""
    if os.statvfs(target.file).f_flag & os.ST_RDONLY:
        raise UsageError(f"{target.file} is mounted read-only: mount the job without --read-only")
    for each in (target, *copies):
        if each.is_read_only():
            raise make_chmod_needed_error(each.file)


def _read_consistent(target: _MountedFile) -> tuple[os.stat_result, bytes]:
    """Return the attributes and the bytes of a file, both of the same version. Raises UsageError, FsError."""
    try:
        with target.file.open("rb") as file:
            data = file.read(_LARGEST + 1)
            return os.fstat(file.fileno()), data
    except OSError as error:
        raise make_write_error(target.file, error) from None


def _merge_copies(
    target: _MountedFile, ours: bytes, copies: list[_MountedFile], *, marks: bool
) -> tuple[bytes, list[tuple[_MountedFile, Version, bytes]], list[str]]:
    """Merge copies into `ours`; return the result, the version and bytes of each copy, and why some copies are not merged.

    With `marks`, the result includes the places where both sides changed the same lines, with git's marks.
    """
    versions, reasons = [], []
    for copy in copies:
        try:
            version, theirs = _read_server_version(copy)
            base = read_copy(copy.slot_path / BASES, copy.relative_path)
            if base is None:
                raise CannotMergeError("the version that both started from is not on this machine")
            result = merge_three_way(copy.slot_path, (str(target.file), ours), base, (str(copy.file), theirs))
        except CannotMergeError as error:
            reasons.append(f"{copy.file} is not merged: {error}")
            continue
        if result.overlap_count:
            more = "" if marks else f": {shell_command('merge', '-n', str(target.file))} shows them"
            places = format_count(result.overlap_count, "place")
            reasons.append(f"{copy.file} is not merged: both changed the same lines, in {places}{more}")
        if marks or not result.overlap_count:
            ours = result.data
        versions.append((copy, version, theirs))
    return ours, versions, reasons


def _read_server_version(copy: _MountedFile) -> tuple[Version, bytes]:
    """Return a copy's version on the server, and its bytes. Raises CannotMergeError, FsError."""
    for _ in range(_READS):
        try:
            sync_file(copy.file)  # sends what was written to the copy on this machine
        except OSError as error:
            raise make_write_error(copy.file, error) from None
        before, (_, data), after = copy.call_mount("info"), _read_consistent(copy), copy.call_mount("info")
        if before == after and (len(data) == after["size"] or len(data) > _LARGEST):
            return Version(after.get("id", ""), after.get("updated_at", ""), after["size"]), data
    raise CannotMergeError("it keeps changing")


def merge_three_way(
    place: Path, ours: tuple[str, bytes], base: bytes, theirs: tuple[str, bytes], patience: float = _PATIENCE
) -> _MergeResult:
    """Merge two named contents with git, in a private directory in `place`; nothing but these bytes affects the result.

    Raises CannotMergeError.
    """
    versions = {"ours": ours[1], "base": base, "theirs": theirs[1]}
    if any(len(data) > _LARGEST for data in versions.values()):
        raise CannotMergeError(f"a version is larger than {format_size(_LARGEST)}")
    if any(b"\0" in data for data in versions.values()):
        raise CannotMergeError("a version is binary")
    labels = [word for label in (ours[0], "both started from", theirs[0]) for word in ("-L", label)]
    try:
        with tempfile.TemporaryDirectory(prefix=directories.MERGING, dir=place) as private:
            for name, data in versions.items():
                Path(private, name).write_bytes(data)
            done = _run_isolated(["git", "merge-file", "-p", "-q", *labels, *versions], private, patience)
    except OSError as error:
        raise CannotMergeError(f"git can't be run in {place}: {error.strerror}") from None
    if not 0 <= done.returncode < 128:
        raise CannotMergeError(f"git says: {done.stderr.decode(errors='replace').strip()}")
    return _MergeResult(done.stdout, done.returncode)


def _run_isolated(words: list[str], directory: str, patience: float) -> subprocess.CompletedProcess[bytes]:
    """Run git in a directory, without any configuration. Raises CannotMergeError if it takes longer than `patience` seconds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    above = {"GIT_CEILING_DIRECTORIES": os.path.dirname(directory)}
    try:
        return subprocess.run(
            words,
            cwd=directory,
            env={**kept, **alone, **above},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        raise CannotMergeError(f"git took more than {patience:.0f} s") from None


def _save_and_delete_copies(
    target: _MountedFile,
    before: os.stat_result,
    merged: bytes,
    versions: list[tuple[_MountedFile, Version, bytes]],
) -> int:
    """Save the merged bytes, and delete the copies that have not changed since they were read. Raises UsageError, FsError."""

    def check() -> None:
        now = os.stat(target.file)
        if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
            raise FsError(errno.ESTALE, f"{target.file} has changed since it was read: run jobfs merge again")

    # Even if nothing is new in them: if the job has overwritten FILE since it was read, the save keeps both.
    replace_file(target.file, merged, check)
    left = [*_delete_unchanged(versions)]
    for copy in left:
        print_escaped(
            f"jobfs: {copy.file} was merged, but has changed since it was read: it is kept", err=True
        )
    return 1 if left else 0


def _delete_unchanged(versions: list[tuple[_MountedFile, Version, bytes]]) -> Iterator[_MountedFile]:
    """Delete the copies that were merged, and yield those that have changed since they were read."""
    for copy, version, data in versions:
        digest = hashlib.sha256(data).hexdigest()
        if not copy.call_mount("unlink_version", version=version, sha256=digest)["done"]:
            yield copy

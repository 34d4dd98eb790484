"""Mounts of this user, found by their state directories: running mounts, and ended ones with what they have left."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import control
from jobfs.cli.screen import print_escaped
from jobfs.document import describe_kept
from jobfs.errors import UsageError
from jobfs.mountpoint import STAT_LIMIT, MountInfo, find_mount_at, is_dead, run_bounded
from jobfs.names import CONTROL_DIR, is_at_or_below, quote_for_shell
from jobfs.private import user_name
from jobfs.settings import load_settings, shell_command
from jobfs.state import directory as directories
from jobfs.state.backlog import read_backlog


def running_mounts(state_dir: str | None) -> list[directories.FoundDirectory]:
    """Return every running mount of the state directory, sorted by mount point."""
    found = directories.find_running(load_settings({"state_dir": state_dir}).state_dir)
    return sorted((entry for entry in found if entry.record is not None), key=mount_point_of)


def find_mount_of(path: str, state_dir: str | None) -> tuple[directories.FoundDirectory, str]:
    """Return the running mount at or above `path`, and the path inside it. Raises UsageError if there is none."""
    found = _find_by_record(path, state_dir) or _find_by_mount_table(path, state_dir)
    if found is None:
        left = [each.description for each in find_ended(state_dir) if each.directory in _possible_paths(path)]
        raise UsageError("; ".join([f"no job is mounted at {path}", *left]))
    return found


def _find_by_record(path: str, state_dir: str | None) -> tuple[directories.FoundDirectory, str] | None:
    """Find the running mount of `path` by the records in the state directory, without touching the mount; None if none fits."""
    # Of several mounts at one directory some may be detached: the one of the job that is mounted there now comes first.
    candidates = sorted(
        running_mounts(state_dir),
        key=lambda found: (-len(mount_point_of(found)), not is_still_mounted(found)),
    )
    for name in _possible_paths(path):
        for found in candidates:
            directory = mount_point_of(found)
            if name == directory or name.startswith(directory + "/"):
                return found, name[len(directory) + 1 :]
    return None


def _find_by_mount_table(path: str, state_dir: str | None) -> tuple[directories.FoundDirectory, str] | None:
    """Find the mount of `path` in the mount table, for a mount with another state directory; None if no job is mounted there.

    Raises UsageError if the mount does not say which state directory it has.
    """
    for spelt in map(Path, _possible_paths(path)):
        for above in (spelt, *spelt.parents):
            there = find_mount_at(str(above))
            if there is not None and there.kind == "fuse.jobfs":
                return _find_by_status(there, state_dir), "/".join(spelt.relative_to(above).parts)
    return None


def _possible_paths(path: str) -> Iterator[str]:
    """Yield the paths by which a mount may know this path. Computing the last one may make the mount resolve links."""
    yield os.path.abspath(path)
    yield os.path.realpath(path)


def _find_by_status(mount: MountInfo, state_dir: str | None) -> directories.FoundDirectory:
    """Return the directory that a mount outside our state directory has, from its status. Raises UsageError, with the remedy."""
    point = mount.point
    if mount.user is not None and mount.user != os.geteuid():
        name = user_name(mount.user)
        raise UsageError(f"{point} was mounted by {name}: run this command as {name}")
    with contextlib.suppress(OSError, ValueError, KeyError):
        status = json.loads(run_bounded(Path(point, CONTROL_DIR, "status.json").read_bytes, STAT_LIMIT))
        found = directories.inspect_directory(Path(status["state_dir"]))
        if directories.is_in_use(found):
            return found
    if is_dead(point):
        known = [each for each in find_ended(state_dir) if each.dead and each.directory == point]
        raise UsageError(known[0].description if known else _dead_mount_remedy(point))
    raise UsageError(
        f"can't find the process that serves {point}: give the --state-dir of that mount, "
        f"or unmount it with fusermount -u {quote_for_shell(point)}; the process then sends unsent files"
    )


def is_still_mounted(found: directories.FoundDirectory) -> bool:
    """Return whether the job of a state directory is the one that is mounted at its mount point now."""
    there = find_mount_at(mount_point_of(found))
    return there is not None and there.kind == "fuse.jobfs" and there.source in ("", found.path.parent.name)


def find_ended_at(path: str, state_dir: str | None) -> list[tuple[directories.FoundDirectory, str]]:
    """Return the ended mounts that `path` was in, latest first, each with the path inside it."""
    found = [
        (each, spelt[len(directory) + 1 :])
        for each in _find_ended_directories(state_dir)
        if (directory := mount_point_of(each))
        for spelt in dict.fromkeys(_possible_paths(path))
        if is_at_or_below(spelt, directory)
    ]
    return sorted(found, key=lambda pair: -pair[0].record.started if pair[0].record else 0.0)


def find_mounts_of(path: str | None, state_dir: str | None) -> list[tuple[directories.FoundDirectory, str]]:
    """Return the mount of a path, or every running one, each with the path inside it. Raises UsageError if there is none."""
    if path is not None:
        return [find_mount_of(path, state_dir)]
    found = running_mounts(state_dir)
    if not found:
        raise UsageError("; ".join(each.description for each in find_ended(state_dir)) or "no job is mounted")
    return [(entry, "") for entry in found]


def call_or_report(found: directories.FoundDirectory, name: str, args: dict[str, Any], **how: Any) -> Any:
    """Return a mount's reply. If there is none, print why and return None: others can still be asked. Raises FsError."""
    try:
        return control.call_mount(found.path, name, args, **how)
    except control.NoMountError as error:
        print_escaped(f"jobfs: {mount_point_of(found)}: {error}", err=True)
        return None


def mount_point_of(found: directories.FoundDirectory) -> str:
    """Return the mount point of a state directory; "" if unknown."""
    return found.record.directory if found.record else ""


class EndedMount(NamedTuple):
    """A mount whose process is gone. `dead`: it still exists. `leftovers`: what it has left, in words; "" if nothing."""

    found: directories.FoundDirectory
    dead: bool
    leftovers: str

    @property
    def directory(self) -> str:
        """Return its mount point."""
        return mount_point_of(self.found)

    @property
    def description(self) -> str:
        """Return a sentence on what is left, with the remedy."""
        if self.dead:
            remedy = _dead_mount_remedy(self.directory, self.found.path.parents[1])
            return remedy + (f"; it has left {self.leftovers}" if self.leftovers else "")
        where = self.directory or self.found.path
        return f"the mount that ended at {where} has left {self.leftovers}: mount the job again, or run {self.recovery_command}"

    @property
    def recovery_command(self) -> str:
        """Return the command that sends what is left."""
        home, state_dir = self.found.path.parents[:2]
        base_url, key_file = (each.base_url, each.api_key_file) if (each := self.found.record) else ("", "")
        return shell_command(
            "recover", home.name, base_url=base_url, state_dir=state_dir, api_key_file=key_file
        )


def find_ended(state_dir: str | None) -> list[EndedMount]:
    """Return the dead mounts, and the ended ones that have left something.

    What ended mounts of a mounted job have left is not included: the status of that job's mount lists it.
    """
    mounted = {found.path.parent for found in running_mounts(state_dir)}
    every = list[EndedMount]()
    for found in _find_ended_directories(state_dir):
        dead = is_still_mounted(found) and is_dead(mount_point_of(found))
        done = found.path.parent in mounted or (found.record is not None and found.record.clean)
        left = "" if done and not dead else describe_leftovers(found)
        every += [EndedMount(found, dead, left)] if dead or left else []
    return every


def _find_ended_directories(state_dir: str | None) -> Iterator[directories.FoundDirectory]:
    """Yield the state directories of all jobs that no process uses, in order of their job."""
    root = load_settings({"state_dir": state_dir}).state_dir
    with contextlib.suppress(OSError):  # there is no state directory yet
        for job in sorted(os.listdir(root)):
            with contextlib.suppress(OSError):  # a mount of that job reports what is wrong with its directory
                yield from directories.find_ended_of_job(root, job, "")


def report_ended_if_any(state_dir: str | None) -> bool:
    """Name the ended mounts on stderr; return whether there are any."""
    every = find_ended(state_dir)
    for each in every:
        print_escaped(f"jobfs: {each.description}", err=True)
    return bool(every)


def describe_leftovers(found: directories.FoundDirectory) -> str:
    """Return in words what an ended mount has left, as its journal says; "" if nothing."""
    try:
        return describe_kept(read_backlog(found.path).to_entries())
    except UsageError as error:
        return f"files that can't be listed: {error}"


def describe_dead(directory: str) -> str:
    """Return the words that all messages use for a dead mount."""
    return f"the process that served {directory} is gone"


def _dead_mount_remedy(directory: str, state_dir: Path | None = None) -> str:
    unmounting = shell_command("umount", directory, state_dir=state_dir)
    return f"{describe_dead(directory)}: mount the job there again, or run {unmounting}"

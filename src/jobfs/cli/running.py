"""Mounts of this user: running ones and ended ones, by their slots in the state directory; dead ones."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobfs import control, mountpoint
from jobfs.cli.screen import counted, tell
from jobfs.draining import kept
from jobfs.errors import JobfsError, UsageError
from jobfs.mountpoint import STAT_LIMIT, MountInfo, bounded, is_dead, mount_at
from jobfs.names import CONTROL_DIR
from jobfs.private import user_name
from jobfs.settings import load
from jobfs.state import directory as slot
from jobfs.state.left import left_in


def mounts(state_dir: str | None) -> list[slot.Found]:
    """Every running mount of the state directory, by mount point."""
    found = slot.running(load({"state_dir": state_dir}).state_dir)
    return sorted((_as_it_is(entry) for entry in found if entry.record is not None), key=directory_of)


def _as_it_is(found: slot.Found) -> slot.Found:
    """A mount that is not where its record says is asked: a directory above it may have another name by now."""
    if not _is_there(found):
        with contextlib.suppress(JobfsError):
            control.call(found.path, "where", timeout=STAT_LIMIT)
            return slot.look(found.path)
    return found


def mount_of(path: str, state_dir: str | None) -> tuple[slot.Found, str]:
    """The running mount that `path` is or lies in, and the path inside it; else raises UsageError."""
    candidates = sorted(
        mounts(state_dir), key=lambda found: (-len(directory_of(found)), not _is_there(found))
    )
    for name in _spellings(path):
        for found in candidates:
            directory = directory_of(found)
            if name == directory or name.startswith(directory + "/"):
                return found, name[len(directory) + 1 :]
    for spelt in map(Path, _spellings(path)):
        for above in (spelt, *spelt.parents):
            there = mount_at(str(above))
            if there is not None and there.kind == "fuse.jobfs":
                told = _as_it_tells(there)
                if told is None:
                    raise UsageError(why_not_found(str(above), there, state_dir))
                return told, "/".join(spelt.relative_to(above).parts)
    ended = [said for said in told_of_ended(state_dir) if f" at {os.path.abspath(path)} " in said]
    raise UsageError("; ".join([f"no job is mounted at {path}", *ended]))


def _as_it_tells(there: MountInfo) -> slot.Found | None:
    """A mount that has another state directory, by its own status; None if it is not this user's, or does not answer."""
    if there.user != os.geteuid():
        return None
    status = Path(there.point, CONTROL_DIR, "status.json")
    try:
        told = json.loads(bounded(status.read_bytes, STAT_LIMIT))
        found = slot.look(Path(told["state_dir"]))
    except (OSError, ValueError, KeyError):
        return None
    return _as_it_is(found) if slot.in_use(found) else None


def _spellings(path: str) -> Iterator[str]:
    """What a path may be called by the mount that it lies in; the last of them may ask that mount for links."""
    yield os.path.abspath(path)
    yield os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(path))), os.path.basename(path))
    yield os.path.realpath(path)


def _is_there(found: slot.Found) -> bool:
    """True if the job that is mounted at its directory now is this one's: it may be detached, with another in its place."""
    there, record = mount_at(directory_of(found)), found.record
    return there is not None and record is not None and there.source in ("", record.job)


def mounts_of(path: str | None, state_dir: str | None) -> list[tuple[slot.Found, str]]:
    """The mount of a path, or every running one: each with the path inside it. Raises UsageError if there is none."""
    if path is not None:
        return [mount_of(path, state_dir)]
    found = mounts(state_dir)
    if not found:
        raise UsageError("; ".join(told_of_ended(state_dir)) or "no job is mounted")
    return [(entry, "") for entry in found]


def asked(
    found: slot.Found, name: str, args: dict[str, Any], quiet: set[str] | None = None, **how: Any
) -> Any:
    """What a mount answers; None, and a sentence, if it does not: that keeps no other from being asked. Raises FsError.

    `quiet`: mounts of which that was said before.
    """
    try:
        return control.call(found.path, name, args, **how)
    except control.NoMountError as error:
        told, where = quiet if quiet is not None else set(), directory_of(found)
        if where not in told:
            tell(f"jobfs: {where}: {error}", err=True)
        told.add(where)
        return None


def directory_of(found: slot.Found) -> str:
    """Where a mount is, "" if that is not known."""
    return found.record.directory if found.record else ""


def why_not_found(directory: str, there: MountInfo, state_dir: str | None) -> str:
    """Why a job is mounted at a directory, and no running mount of this user is found."""
    if is_dead(there.point):
        return remedy(directory, dead_mounts(state_dir).get(there.point))
    if there.user is not None and there.user != os.geteuid():
        name = user_name(there.user)
        return f"{directory} was mounted by {name}: run this as {name}"
    return (
        f"the process that serves {directory} can't be found: give the --state-dir it was mounted with, "
        f"or end it with fusermount -u {directory}; it sends what is left"
    )


# Mounts that have ended, and dead ones


def _ended(state_dir: str | None) -> list[slot.Found]:
    """The slots in the state directory whose process is gone."""
    root = load({"state_dir": state_dir}).state_dir
    found = list[slot.Found]()
    with contextlib.suppress(OSError):  # there is none yet
        for job in sorted(os.listdir(root)):
            with contextlib.suppress(OSError):  # a mount of that job says what is the matter with it
                found += slot.others(root, job, "")
    return found


def dead_mounts(state_dir: str | None) -> dict[str, slot.Found]:
    """Mounts of this user whose process is gone, by mount point."""
    # Of the jobs that had a directory one after another, the one that is there.
    places = {directory_of(found): found for found in sorted(_ended(state_dir), key=_is_there)}
    mounted = {there.point for there in mountpoint.mounts() if there.kind == "fuse.jobfs"}
    return {point: places[point] for point in sorted(places.keys() & mounted) if is_dead(point)}


def told_of_ended(state_dir: str | None) -> list[str]:
    """Each dead mount, and what an ended one has left, with the remedy: a sentence each."""
    dead = dead_mounts(state_dir)
    told = [remedy(directory, found) for directory, found in dead.items()]
    # Of a job that is mounted, its status tells.
    mounted = {found.path.parent for found in mounts(state_dir)}
    for found in _ended(state_dir):
        done = found.record is not None and found.record.clean
        if not done and found not in dead.values() and found.path.parent not in mounted:
            where, left = directory_of(found) or found.path, left_by(found)
            recover = f"mount the job again, or jobfs recover {found.path.parent.name}"
            told += [f"the mount that ended at {where} has left {left}: {recover}"] if left else []
    return told


def tell_of_ended(state_dir: str | None) -> bool:
    """The same on stderr; True if there is any."""
    told = told_of_ended(state_dir)
    for sentence in told:
        tell(f"jobfs: {sentence}", err=True)
    return bool(told)


def left_by(found: slot.Found) -> str:
    """What an ended mount has left, in words, as its journal says; "" if nothing."""
    try:
        left = left_in(found.path)
    except UsageError as error:
        return f"what can't be told: {error}"
    others = f"{counted(len(left.changes), 'change')} to be finished" if left.changes else ""
    return "; ".join(filter(None, (kept(left._replace(changes=[]).told()), others)))


def gone(directory: str) -> str:
    """What is said of a dead mount, wherever it is met."""
    return f"the process that served {directory} is gone"


def remedy(directory: str, found: slot.Found | None) -> str:
    """The same, with what to do about it, and what it has left."""
    left = left_by(found) if found is not None else ""
    return f"{gone(directory)}: mount the job there again, or jobfs umount {directory}" + (
        f"; it has left {left}" if left else ""
    )

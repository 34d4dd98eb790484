"""Mounts of this user: running ones, by a register in the user's runtime directory and by their slots; ended and dead ones.

Whatever is asked of a mount whose process is gone fails with ENOTCONN, "Transport endpoint is not connected".
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from jobfs import control, mountpoint
from jobfs.cli.options import load
from jobfs.cli.screen import counted, tell
from jobfs.draining import kept
from jobfs.errors import JobfsError, UsageError
from jobfs.mountpoint import BusyError, MountInfo, mount_at, unmount
from jobfs.private import user_name
from jobfs.state import directory as slot
from jobfs.state.left import left_in

T = TypeVar("T")

#: Seconds after which what does not answer is taken for alive.
_STAT_LIMIT = 2.0


def mounts(state_dir: str | None) -> list[slot.Found]:
    """Every running mount of this user, by mount point; the register forgets those that ended."""
    found = {entry.path: entry for entry in _registered() if slot.in_use(entry)}
    for entry in slot.running(load({"state_dir": state_dir}).state_dir):
        found[entry.path] = entry
    return sorted(
        (_as_it_is(entry) for entry in found.values() if entry.record is not None), key=directory_of
    )


def _as_it_is(found: slot.Found) -> slot.Found:
    """A mount that is not where its record says is asked: a directory above it may have another name by now."""
    if not _is_there(found):
        with contextlib.suppress(JobfsError):
            control.call(found.path, "where", timeout=_STAT_LIMIT)
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
    for above in (place := Path(os.path.abspath(path)), *place.parents):
        there = mount_at(str(above))
        if there is not None and there.kind == "fuse.jobfs":
            raise UsageError(why_not_found(str(above), there, state_dir))
    ended = [said for found, said in _left_behind(state_dir, []) if directory_of(found) in _spellings(path)]
    raise UsageError("; ".join([f"no job is mounted at {path}", *ended]))


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


# The register


@contextlib.contextmanager
def registered(directory: str, slot_path: Path) -> Iterator[None]:
    """Let other commands find the mount at `directory` by its slot, wherever the state directory is."""
    register = _register()
    if register is None:
        yield
        return
    entry = register / hashlib.blake2b(os.fsencode(directory), digest_size=12).hexdigest()
    draft = entry.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # without it --state-dir tells
        draft.symlink_to(slot_path)
        draft.replace(entry)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if entry.readlink() == slot_path:  # else a later mount of this directory
                entry.unlink()


def _registered() -> list[slot.Found]:
    """Every mount in the register, running or dead; those that ended are forgotten."""
    register = _register()
    known = []
    for entry in register.iterdir() if register else ():
        try:
            found = slot.look(entry.readlink())
        except OSError:  # it is none of ours, or gone by now
            continue
        if slot.in_use(found) or mount_at(directory_of(found)) is not None:
            known.append(found)
        else:
            entry.unlink(missing_ok=True)
    return known


def _register() -> Path | None:
    """The register's directory, mode 0700; None if there is no place that only this user can write."""
    try:
        with warnings.catch_warnings():
            # Without XDG_RUNTIME_DIR (root, containers) its fallback is checked below like any other place.
            warnings.simplefilter("ignore")
            path = platformdirs.user_runtime_path("jobfs")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError:
        return None
    ours = info.st_uid == os.geteuid() and stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o022
    return path if ours and path.parent.stat().st_uid in (0, os.geteuid()) else None


# Mounts that have ended, and dead ones


def _ended(state_dir: str | None, unreadable: list[str]) -> list[slot.Found]:
    """The slots of this user's mounts whose process is gone; found by the same register, and in the state directory.

    Appends a sentence to `unreadable` for what can't be read there.
    """
    root = load({"state_dir": state_dir}).state_dir
    known = {found.path: found for found in _registered() if not slot.in_use(found)}
    try:
        jobs = sorted(os.listdir(root))
    except OSError:  # there is none yet, or a mount refuses it
        jobs = []
    for job in jobs:
        try:
            os.listdir(root / job)
            known |= {found.path: found for found in slot.others(root, job, "")}
        except NotADirectoryError:
            continue
        except OSError as error:
            unreadable.append(
                f"{error.filename or job} can't be read ({error.strerror}): make it yours, or remove it"
            )
    return list(known.values())


def dead_mounts(state_dir: str | None) -> dict[str, slot.Found]:
    """Mounts of this user whose process is gone, by mount point."""
    # Of the jobs that had a directory one after another, the one that is there.
    places = {directory_of(found): found for found in sorted(_ended(state_dir, []), key=_is_there)}
    mounted = {there.point for there in mountpoint.mounts() if there.kind == "fuse.jobfs"}
    return {point: places[point] for point in sorted(places.keys() & mounted) if is_dead(point)}


def told_of_ended(state_dir: str | None) -> list[str]:
    """Each dead mount, and what an ended one has left, with the remedy: a sentence each."""
    dead, unreadable = dead_mounts(state_dir), list[str]()
    # Of a job that is mounted, its status tells.
    mounted = {found.path.parent for found in mounts(state_dir)}
    left = [
        said
        for found, said in _left_behind(state_dir, unreadable)
        if found not in dead.values() and found.path.parent not in mounted
    ]
    return [*(remedy(directory, found) for directory, found in dead.items()), *left, *unreadable]


def tell_of_ended(state_dir: str | None) -> bool:
    """The same on stderr; True if there is any."""
    told = told_of_ended(state_dir)
    for sentence in told:
        tell(f"jobfs: {sentence}", err=True)
    return bool(told)


def _left_behind(state_dir: str | None, unreadable: list[str]) -> Iterator[tuple[slot.Found, str]]:
    """What ended mounts have left, a sentence each; `unreadable`: as in `_ended`."""
    for found in _ended(state_dir, unreadable):
        if not (found.record and found.record.clean) and (left := left_by(found)):
            recover = f"mount the job again, or jobfs recover {found.path.parent.name}"
            yield (
                found,
                f"the mount that ended at {directory_of(found) or found.path} has left {left}: {recover}",
            )


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


def is_dead(path: str) -> bool:
    """True if the process that served the mount at `path` is gone."""
    try:
        # Not stat: the kernel may know the answer to that for a second longer.
        bounded(lambda: os.statvfs(path), _STAT_LIMIT)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def clear(directory: str) -> None:
    """Take a dead mount away, whatever is still open there. Raises JobfsError if it can't be done."""
    try:
        unmount(directory)
    except BusyError:
        # What is open there gets nothing but errors.
        unmount(directory, lazy=True)


def bounded(work: Callable[[], T], seconds: float, meanwhile: Callable[[], object] = lambda: None) -> T:
    """The result of `work`; raises TimeoutError if that takes longer, and leaves it to itself.

    `meanwhile` is done in this thread.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    meanwhile()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]

"""Finding running mounts: by a register of them in the user's runtime directory, and by their slots."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from jobfs.cli.dead import is_stale, remedy
from jobfs.cli.options import load
from jobfs.errors import UsageError
from jobfs.mountpoint import MountInfo, mount_at
from jobfs.mountpoint import mounts as mount_list
from jobfs.private import user_name
from jobfs.state import directory as slot


def _register() -> Path | None:
    """The register's directory, mode 0700; None if there is no place that only this user can write."""
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR (root, containers) its fallback is checked below like any other place.
        warnings.simplefilter("ignore")
        path = platformdirs.user_runtime_path("jobfs")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError:
        return None
    ours = info.st_uid == os.geteuid() and stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o022
    return path if ours and path.parent.stat().st_uid in (0, os.geteuid()) else None


@contextlib.contextmanager
def registered(directory: str, slot_path: Path) -> Iterator[None]:
    """Let other commands find the mount at `directory` by its slot, wherever the state directory is."""
    register = _register()
    if register is None:
        yield
        return
    entry = register / f"{hashlib.blake2b(os.fsencode(directory), digest_size=12).hexdigest()}.json"
    draft = entry.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({"directory": directory, "slot": str(slot_path)}))
    draft.replace(entry)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            entry.unlink()


def mounts(state_dir: str | None) -> list[slot.Found]:
    """Every running mount of this user, by mount point; the register forgets those that ended."""
    found = {entry.path: entry for entry in _registered()}
    for entry in slot.running(load({"state_dir": state_dir}).state_dir):
        found[entry.path] = entry
    known = [entry for entry in found.values() if entry.record is not None]
    return sorted(known, key=_directory)


def mount_of(path: str, state_dir: str | None) -> tuple[slot.Found, str]:
    """The running mount that `path` is or lies in, and the path inside it; else raises UsageError."""
    candidates = sorted(mounts(state_dir), key=lambda found: -len(_directory(found)))
    beside = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    for place in (os.path.abspath(path), os.path.join(beside, os.path.basename(path))):
        for found in candidates:
            directory = _directory(found)
            if place == directory or place.startswith(directory + "/"):
                return found, place[len(directory) + 1 :]
    there = mount_at(os.path.abspath(path))
    if there is not None and there.kind == "fuse.jobfs":
        raise UsageError(why_not_found(path, there))
    raise UsageError(f"no job is mounted at {path}")


def why_not_found(directory: str, there: MountInfo) -> str:
    """Why a job is mounted at a directory, and no running mount of this user is found."""
    if is_stale(there.point):
        return remedy(directory)
    if there.user is not None and there.user != os.geteuid():
        name = user_name(there.user)
        return f"{directory} was mounted by {name}: run this as {name}"
    return (
        f"the process that serves {directory} can't be found: give the --state-dir it was mounted with, "
        f"or end it with fusermount -u {directory}; it sends what is left"
    )


def dead_mounts(state_dir: str | None) -> list[str]:
    """Where mounts of this user that had their state there were killed, and are still mounted; no process serves them."""
    root = load({"state_dir": state_dir}).state_dir
    try:
        jobs = sorted(os.listdir(root))
    except OSError:
        return []
    ended = (found.record for job in jobs for found in slot.others(root, job, "") if found.record)
    places = {there.point for there in mount_list() if there.kind == "fuse.jobfs"}
    return sorted({r.directory for r in ended if r.directory in places and is_stale(r.directory)})


def _directory(found: slot.Found) -> str:
    return found.record.directory if found.record else ""


def _registered() -> Iterator[slot.Found]:
    register = _register()
    for entry in sorted(register.glob("*.json")) if register else ():
        try:
            found = slot.look(Path(json.loads(entry.read_text())["slot"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if slot.in_use(found):
            yield found
        else:
            with contextlib.suppress(OSError):
                entry.unlink()

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

from jobfs.cli.options import load
from jobfs.errors import UsageError
from jobfs.mountpoint import mount_points
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
    if mount_points().get(os.path.abspath(path)) == "fuse.jobfs":
        raise UsageError(gone(path))
    raise UsageError(f"no job is mounted at {path}")


def gone(path: str) -> str:
    """What is said of a mount whose process has ended without unmounting it."""
    return f"the process that served {path} is gone: jobfs umount {path}, then mount it again"


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

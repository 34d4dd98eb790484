"""Mounts of this user, by their slots in the state directory: running ones, and ended ones with what they have left."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import control
from jobfs.cli.screen import tell
from jobfs.document import kept
from jobfs.errors import UsageError
from jobfs.mountpoint import STAT_LIMIT, MountInfo, bounded, is_dead, mount_at
from jobfs.names import CONTROL_DIR, quoted, within
from jobfs.private import user_name
from jobfs.settings import command, load
from jobfs.state import directory as slot
from jobfs.state.left import left_in


def mounts(state_dir: str | None) -> list[slot.Found]:
    """Every running mount of the state directory, by mount point."""
    found = slot.running(load({"state_dir": state_dir}).state_dir)
    return sorted((entry for entry in found if entry.record is not None), key=directory_of)


def mount_of(path: str, state_dir: str | None) -> tuple[slot.Found, str]:
    """The running mount that `path` is or lies in, and the path inside it; else raises UsageError."""
    found = _recorded(path, state_dir) or _attached(path, state_dir)
    if found is None:
        left = [each.told for each in ended(state_dir) if each.directory in _spellings(path)]
        raise UsageError("; ".join([f"no job is mounted at {path}", *left]))
    return found


def _recorded(path: str, state_dir: str | None) -> tuple[slot.Found, str] | None:
    """Find the running mount of `path` by the records in the state directory, without a look at the mount; None if none fits."""
    # Of several mounts at one directory some may be detached: that of the job that is mounted there now comes first.
    candidates = sorted(
        mounts(state_dir), key=lambda found: (-len(directory_of(found)), not is_attached(found))
    )
    for name in _spellings(path):
        for found in candidates:
            directory = directory_of(found)
            if name == directory or name.startswith(directory + "/"):
                return found, name[len(directory) + 1 :]
    return None


def _attached(path: str, state_dir: str | None) -> tuple[slot.Found, str] | None:
    """Find the mount of `path` by the mount table, for one with another state directory; None if no job is mounted there.

    Raises UsageError if the mount does not say which one it is.
    """
    for spelt in map(Path, _spellings(path)):
        for above in (spelt, *spelt.parents):
            there = mount_at(str(above))
            if there is not None and there.kind == "fuse.jobfs":
                return _as_it_tells(there, state_dir), "/".join(spelt.relative_to(above).parts)
    return None


def _spellings(path: str) -> Iterator[str]:
    """The paths by which a mount may know this path; to make the last one, that mount may be asked for links."""
    yield os.path.abspath(path)
    yield os.path.realpath(path)


def _as_it_tells(there: MountInfo, state_dir: str | None) -> slot.Found:
    """A mount that has another state directory, by its own status. Raises UsageError if it does not answer, with the remedy."""
    point = there.point
    if there.user is not None and there.user != os.geteuid():
        name = user_name(there.user)
        raise UsageError(f"{point} was mounted by {name}: run this as {name}")
    with contextlib.suppress(OSError, ValueError, KeyError):
        status = json.loads(bounded(Path(point, CONTROL_DIR, "status.json").read_bytes, STAT_LIMIT))
        found = slot.look(Path(status["state_dir"]))
        if slot.in_use(found):
            return found
    if is_dead(point):
        known = [each for each in ended(state_dir) if each.dead and each.directory == point]
        raise UsageError(known[0].told if known else _remedy(point))
    raise UsageError(
        f"the process that serves {point} can't be found: give the --state-dir it was mounted with, "
        f"or end it with fusermount -u {quoted(point)}; it sends what is left"
    )


def is_attached(found: slot.Found) -> bool:
    """True if the job that is now mounted at the directory of a slot is the job of the slot."""
    there = mount_at(directory_of(found))
    return there is not None and there.kind == "fuse.jobfs" and there.source in ("", found.path.parent.name)


def ended_at(path: str, state_dir: str | None) -> list[tuple[slot.Found, str]]:
    """Return the ended mounts in which `path` was, the latest first, each with the path inside."""
    found = [
        (each, spelt[len(directory) + 1 :])
        for each in _slots(state_dir)
        if (directory := directory_of(each))
        for spelt in dict.fromkeys(_spellings(path))
        if within(spelt, directory)
    ]
    return sorted(found, key=lambda pair: -pair[0].record.started if pair[0].record else 0.0)


def mounts_of(path: str | None, state_dir: str | None) -> list[tuple[slot.Found, str]]:
    """The mount of a path, or every running one: each with the path inside it. Raises UsageError if there is none."""
    if path is not None:
        return [mount_of(path, state_dir)]
    found = mounts(state_dir)
    if not found:
        raise UsageError("; ".join(each.told for each in ended(state_dir)) or "no job is mounted")
    return [(entry, "") for entry in found]


def asked(found: slot.Found, name: str, args: dict[str, Any], **how: Any) -> Any:
    """What a mount answers. If it does not, tells the user and returns None: others can still be asked. Raises FsError."""
    try:
        return control.call(found.path, name, args, **how)
    except control.NoMountError as error:
        tell(f"jobfs: {directory_of(found)}: {error}", err=True)
        return None


def directory_of(found: slot.Found) -> str:
    """Where a mount is, "" if that is not known."""
    return found.record.directory if found.record else ""


class Ended(NamedTuple):
    """A slot whose process is gone; `dead`: its mount is still there. `left`: what it has left, in words, "" if nothing."""

    found: slot.Found
    dead: bool
    left: str

    @property
    def directory(self) -> str:
        """Where it was mounted."""
        return directory_of(self.found)

    @property
    def told(self) -> str:
        """A sentence with the remedy."""
        if self.dead:
            remedy = _remedy(self.directory, self.found.path.parents[1])
            return remedy + (f"; it has left {self.left}" if self.left else "")
        where = self.directory or self.found.path
        return (
            f"the mount that ended at {where} has left {self.left}: mount the job again, or {self.recovery}"
        )

    @property
    def recovery(self) -> str:
        """The command that sends what it has left."""
        home, state_dir = self.found.path.parents[:2]
        base_url, key_file = (each.base_url, each.api_key_file) if (each := self.found.record) else ("", "")
        return command("recover", home.name, base_url=base_url, state_dir=state_dir, api_key_file=key_file)


def ended(state_dir: str | None) -> list[Ended]:
    """The dead mounts, and the ended ones that have left something; for a job that is mounted, its status tells of them."""
    mounted = {found.path.parent for found in mounts(state_dir)}
    every = list[Ended]()
    for found in _slots(state_dir):
        dead = is_attached(found) and is_dead(directory_of(found))
        done = found.path.parent in mounted or (found.record is not None and found.record.clean)
        left = "" if done and not dead else left_by(found)
        every += [Ended(found, dead, left)] if dead or left else []
    return every


def _slots(state_dir: str | None) -> Iterator[slot.Found]:
    """The slots whose process is gone."""
    root = load({"state_dir": state_dir}).state_dir
    with contextlib.suppress(OSError):  # there is no state directory yet
        for job in sorted(os.listdir(root)):
            with contextlib.suppress(OSError):  # a mount of that job tells what is wrong with its directory
                yield from slot.others(root, job, "")


def tell_of_ended(state_dir: str | None) -> bool:
    """Name the ended mounts on stderr; True if there are any."""
    every = ended(state_dir)
    for each in every:
        tell(f"jobfs: {each.told}", err=True)
    return bool(every)


def left_by(found: slot.Found) -> str:
    """What an ended mount has left, in words, as its journal says; "" if nothing."""
    try:
        return kept(left_in(found.path).told())
    except UsageError as error:
        return f"what can't be told: {error}"


def gone(directory: str) -> str:
    """The words for a dead mount, wherever it is met."""
    return f"the process that served {directory} is gone"


def _remedy(directory: str, state_dir: Path | None = None) -> str:
    unmounting = command("umount", directory, state_dir=state_dir)
    return f"{gone(directory)}: mount the job there again, or {unmounting}"

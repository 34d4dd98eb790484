"""State directories: where one mount keeps its unsent work, `<state dir>/<job>/<mount id>/` (design.md), one mount at a time.

A place outlives its mount. The next mount of that job takes it over, with the mount id and the journal in it,
so that what a killed mount left is finished wherever the job is mounted next (save/protocol.md, Recovery).
The lock (flock) goes with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jobfs.errors import UsageError
from jobfs.names import is_mount_id, new_mount_id
from jobfs.private import open_own_directory
from jobfs.settings import shell_command
from jobfs.state.journal import release_for_start

#: Seconds to try again for a lock: a process that only looks whether it is free holds it for an instant.
_INSTANT = 0.3
#: The names of the directories in which `jobfs merge` works begin with this.
MERGING = "merge-"


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What a state directory was last used for; `clean` if that mount left nothing to send. `started` in s."""

    mount_id: str
    job: str
    directory: str
    base_url: str
    pid: int
    started: float
    clean: bool = False
    api_key_file: str = ""


@dataclass(frozen=True, slots=True)
class FoundDirectory:
    """A place on disk: its directory, and what it was last used for if that is known."""

    path: Path
    record: MountRecord | None

    @property
    def has_journal(self) -> bool:
        """True if a mount ever got as far as keeping a journal here."""
        return (self.path / "journal.db").exists()


class StateDirectory:
    """A place that this process holds."""

    def __init__(self, path: Path, lock: int, record: MountRecord) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @property
    def mount_id(self) -> str:
        """The id in this mount's hidden names."""
        return self.record.mount_id

    @property
    def log_path(self) -> Path:
        """Where a mount in the background writes its log."""
        return self.path / "jobfs.log"

    def write_record(self, *, clean: bool = False) -> None:
        """Note on disk that this process uses the place, or has left it `clean`. Raises UsageError."""
        self.record = replace(self.record, pid=os.getpid(), clean=clean)
        draft = self.path / "mount.json.new"
        release_for_start(self.path)
        with report_disk_errors(self.path):
            draft.write_text(json.dumps(asdict(self.record)))
            draft.replace(self.path / "mount.json")

    def close(self) -> None:
        """Let the next mount have the place."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def acquire(
    state_dir: Path, job: str, directory: str, base_url: str, key_file: Path | None = None
) -> StateDirectory:
    """Take the place last used for this job and `directory`, else a free one of this job, else a new one.

    Raises UsageError if a running mount has this job at this directory, if the place belongs to another user
    or can't be written. The job decides, whatever address its server has now.
    """
    home = state_dir / job
    with report_disk_errors(state_dir), (_make_private(home) / "lock").open("w") as choosing:
        # One at a time: a state directory is chosen and recorded before the next mount looks.
        fcntl.flock(choosing, fcntl.LOCK_EX)
        places = _find_slots(home)
        for found in places:
            _make_private(found.path)
            if found.record and found.record.directory == directory and is_in_use(found):
                raise UsageError(
                    f"an earlier mount of job {job} at {directory} still runs (process {found.record.pid}), perhaps sending "
                    f"its last files: see `{shell_command('status', directory)}`, or wait until it ends"
                )

        def order(found: FoundDirectory) -> tuple[bool, bool, float]:
            """First the places of this directory, then those with a journal; among equals the one that was used last."""
            if (record := found.record) is None:
                return True, not found.has_journal, 0.0
            return record.directory != directory, not found.has_journal, -record.started

        places.sort(key=order)
        for path in [*(found.path for found in places), home / new_mount_id()]:
            if (lock := _try_lock(_make_private(path))) >= 0:
                break
        _make_private(path / "bytes")
        for left in path.glob(f"{MERGING}*"):  # of a merge that was killed
            shutil.rmtree(left, ignore_errors=True)
        named = str(key_file or "")
        record = MountRecord(
            path.name, job, directory, base_url, os.getpid(), time.time(), api_key_file=named
        )
        place = StateDirectory(path, lock, record)
        place.write_record()
        return place


def reopen(found: FoundDirectory, base_url: str) -> StateDirectory:
    """Take an existing place to finish what is in it. Raises UsageError if a process holds it."""
    path = found.path
    record = found.record or MountRecord(
        path.name, path.parent.name, f"({path})", base_url, os.getpid(), time.time()
    )
    with report_disk_errors(path):
        _make_private(path)
        lock = _try_lock(path)
        if lock < 0:
            raise UsageError(f"{path} is in use by process {record.pid}")
        return StateDirectory(path, lock, record)


def find_others(state_dir: Path, job: str, mount_id: str) -> list[FoundDirectory]:
    """The state directories of this job, but for `mount_id`, that no mount holds and that have a journal."""
    return [
        found
        for found in _find_slots(state_dir / job)
        if found.path.name != mount_id and found.has_journal and not is_in_use(found)
    ]


def find_of_job(state_dir: Path, job: str) -> list[FoundDirectory]:
    """Every state directory of this job, held by a mount or not; the one used last comes first."""
    return sorted(
        _find_slots(state_dir / job), key=lambda found: -found.record.started if found.record else 0.0
    )


def find_running(state_dir: Path) -> list[FoundDirectory]:
    """The state directories under `state_dir` that a running mount holds."""
    return [found for home in sorted(state_dir.glob("*")) for found in _find_slots(home) if is_in_use(found)]


def inspect_directory(path: Path) -> FoundDirectory:
    """The place at `path`."""
    try:
        values = json.loads((path / "mount.json").read_text())
        record = MountRecord(**values) if values.get("mount_id") == path.name else None
    except (OSError, ValueError, TypeError, AttributeError):
        record = None
    return FoundDirectory(path, record)


def is_in_use(found: FoundDirectory, patience: float = 0.0) -> bool:
    """True if a process holds the place, and goes on holding it for `patience` seconds."""
    try:
        lock = os.open(found.path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # Shared: several processes may look at once.
        return not _flock_within(lock, fcntl.LOCK_SH, patience)
    finally:
        os.close(lock)


@contextlib.contextmanager
def exclude_mounts(found: FoundDirectory) -> Iterator[bool]:
    """Keep mounts from taking a place in this block, without writing in it; yield False if a process holds it. Raises OSError."""
    with contextlib.ExitStack() as opened:
        free = True
        with contextlib.suppress(FileNotFoundError):  # no mount was ever there
            lock = os.open(found.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, lock)
            free = _flock_within(lock, fcntl.LOCK_SH, _INSTANT)
        yield free


def _find_slots(home: Path) -> list[FoundDirectory]:
    return [inspect_directory(path) for path in sorted(home.glob("*")) if is_mount_id(path.name)]


def _try_lock(place: Path) -> int:
    """The lock in this directory, held; -1 if a mount holds it, or others look for longer than an instant. Raises OSError."""
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # It can be had shared beside those who look, who are waited for, and not beside a mount, which is not.
    if _flock_within(lock, fcntl.LOCK_SH, 0.0) and _flock_within(lock, fcntl.LOCK_EX, _INSTANT):
        return lock
    os.close(lock)
    return -1


def _flock_within(lock: int, how: int, patience: float) -> bool:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)


@contextlib.contextmanager
def report_disk_errors(place: Path) -> Iterator[None]:
    """Say what the disk refuses in one sentence. Raises UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"can't write in the state directory {place}: {error.strerror}; give another with --state-dir"
        ) from None


def _make_private(path: Path) -> Path:
    """Make sure that `path` is a directory of ours that nobody else can enter."""
    with open_own_directory(path, "state", "--state-dir") as handle:
        os.fchmod(handle, 0o700)
    return path

"""State directories, `<state dir>/<job>/<mount id>/` (design.md): each holds the unsent work of one mount at a time.

A state directory outlives its mount. The next mount of the job takes it over, with its mount id and journal. So whatever a killed
mount has left is finished wherever the job is mounted next (save/protocol.md, Recovery). The lock is a flock, which ends with the
process.
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

#: How long a lock is tried for, in seconds: a process that only checks whether it is free holds it for an instant.
_INSTANT = 0.3
#: The prefix of the directories in which `jobfs merge` works.
MERGING = "merge-"


@dataclass(frozen=True, slots=True)
class MountRecord:
    """The last use of a state directory, as `mount.json` has it.

    `directory`: the mount point. `started`: in seconds since the epoch. `clean`: the mount has ended, with nothing left to send.
    """

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
    """A state directory on the disk; `record`: its last use, None if not known."""

    path: Path
    record: MountRecord | None

    @property
    def has_journal(self) -> bool:
        """True if it has a journal."""
        return (self.path / "journal.db").exists()


class StateDirectory:
    """A state directory that this process has locked."""

    def __init__(self, path: Path, lock: int, record: MountRecord) -> None:
        self.path = path
        self.record = record
        self._lock = lock

    @property
    def mount_id(self) -> str:
        """The mount id, which is in the hidden names of the mount."""
        return self.record.mount_id

    @property
    def log_path(self) -> Path:
        """The path of the log of a mount in the background."""
        return self.path / "jobfs.log"

    def write_record(self, *, clean: bool = False) -> None:
        """Record on the disk that this process uses the directory, or has left it `clean`. Raises UsageError."""
        self.record = replace(self.record, pid=os.getpid(), clean=clean)
        new = self.path / "mount.json.new"
        release_for_start(self.path)
        with report_disk_errors(self.path):
            new.write_text(json.dumps(asdict(self.record)))
            new.replace(self.path / "mount.json")

    def close(self) -> None:
        """Release the lock, so that another mount can take the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def acquire_state_directory(
    state_dir: Path, job: str, directory: str, base_url: str, key_file: Path | None = None
) -> StateDirectory:
    """Lock the state directory last used for `job` at `directory`, else a free one of the job, else a new one.

    `base_url` and `key_file` are only recorded: a state directory is found by its job, whatever the server's address was. Raises
    UsageError if a mount of the job at this directory is running, or if the state directory belongs to another user or can't be
    written.
    """
    home = state_dir / job
    with report_disk_errors(state_dir), (_make_private(home) / "lock").open("w") as choosing:
        # One mount at a time chooses a state directory and writes its record.
        fcntl.flock(choosing, fcntl.LOCK_EX)
        places = _find_directories(home)
        for found in places:
            _make_private(found.path)
            if found.record and found.record.directory == directory and is_in_use(found):
                raise UsageError(
                    f"an earlier mount of job {job} at {directory} still runs (process {found.record.pid}), perhaps sending "
                    f"its last files: see `{shell_command('status', directory)}`, or wait until it ends"
                )

        def order(found: FoundDirectory) -> tuple[bool, bool, float]:
            """Sort those last mounted at `directory` first, then those with a journal, then those used last."""
            if (record := found.record) is None:
                return True, not found.has_journal, 0.0
            return record.directory != directory, not found.has_journal, -record.started

        places.sort(key=order)
        for path in [*(found.path for found in places), home / new_mount_id()]:
            if (lock := _try_lock(_make_private(path))) >= 0:
                break
        _make_private(path / "bytes")
        for abandoned in path.glob(f"{MERGING}*"):  # of a merge that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        record = MountRecord(
            path.name, job, directory, base_url, os.getpid(), time.time(), api_key_file=str(key_file or "")
        )
        place = StateDirectory(path, lock, record)
        place.write_record()
        return place


def reopen_state_directory(found: FoundDirectory, base_url: str) -> StateDirectory:
    """Lock an existing state directory, to finish its unsent work. Raises UsageError if a process holds it."""
    path = found.path
    record = found.record or MountRecord(
        path.name, path.parent.name, f"({path})", base_url, os.getpid(), time.time()
    )
    with report_disk_errors(path):
        _make_private(path)
        lock = _try_lock(path)
        if lock < 0:
            raise UsageError(f"{path} is in use by process {record.pid}: wait until it ends")
        return StateDirectory(path, lock, record)


def find_ended_of_job(state_dir: Path, job: str, mount_id: str) -> list[FoundDirectory]:
    """Return the state directories of a job, except that of `mount_id`, that have a journal and that no process holds."""
    return [
        found
        for found in _find_directories(state_dir / job)
        if found.path.name != mount_id and found.has_journal and not is_in_use(found)
    ]


def find_of_job(state_dir: Path, job: str) -> list[FoundDirectory]:
    """Return all state directories of a job, held or not; the one used last comes first."""
    return sorted(
        _find_directories(state_dir / job), key=lambda found: -found.record.started if found.record else 0.0
    )


def find_running(state_dir: Path) -> list[FoundDirectory]:
    """Return the state directories under `state_dir` that a process holds."""
    return [
        found for home in sorted(state_dir.glob("*")) for found in _find_directories(home) if is_in_use(found)
    ]


def inspect_directory(path: Path) -> FoundDirectory:
    """Return the state directory at `path`, with its record if that can be read."""
    try:
        values = json.loads((path / "mount.json").read_text())
        record = MountRecord(**values) if values.get("mount_id") == path.name else None
    except (OSError, ValueError, TypeError, AttributeError):
        record = None
    return FoundDirectory(path, record)


def is_in_use(found: FoundDirectory, patience: float = 0.0) -> bool:
    """Return whether a process holds a state directory, and keeps it for `patience` seconds."""
    try:
        lock = os.open(found.path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # A shared lock, so that several processes can check at once.
        return not _flock_within(lock, fcntl.LOCK_SH, patience)
    finally:
        os.close(lock)


@contextlib.contextmanager
def exclude_mounts(found: FoundDirectory) -> Iterator[bool]:
    """Keep mounts from taking a state directory in this block, without writing in it; yield False if a process holds it.

    Raises OSError.
    """
    with contextlib.ExitStack() as opened:
        free = True
        with contextlib.suppress(FileNotFoundError):  # no mount was ever there
            lock = os.open(found.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, lock)
            free = _flock_within(lock, fcntl.LOCK_SH, _INSTANT)
        yield free


def _find_directories(home: Path) -> list[FoundDirectory]:
    return [inspect_directory(path) for path in sorted(home.glob("*")) if is_mount_id(path.name)]


def _try_lock(place: Path) -> int:
    """Lock a directory exclusively, and return the descriptor; -1 if another process holds the lock. Raises OSError."""
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # A process that only checks holds a shared lock, and is waited for. A mount holds an exclusive one, and is not.
    if _flock_within(lock, fcntl.LOCK_SH, 0.0) and _flock_within(lock, fcntl.LOCK_EX, _INSTANT):
        return lock
    os.close(lock)
    return -1


def _flock_within(lock: int, operation: int, patience: float) -> bool:
    """Lock a descriptor; return False if another process holds the lock for all of `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock, operation | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)


@contextlib.contextmanager
def report_disk_errors(place: Path) -> Iterator[None]:
    """Turn an OSError of the block into a UsageError that says what to do."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"can't write to the state directory {place}: {error.strerror}; give another with --state-dir"
        ) from None


def _make_private(path: Path) -> Path:
    """Make `path` a directory of this user with mode 0700, and return it. Raises UsageError, OSError (`open_own_directory`)."""
    with open_own_directory(path, "state", "--state-dir") as handle:
        os.fchmod(handle, 0o700)
    return path

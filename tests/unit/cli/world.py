"""A world for these tests: what a mount answers, the mounts of the machine, and a state directory in use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import document
from jobfs.control import ControlServer
from jobfs.errors import UsageError
from jobfs.mountpoint import MountInfo
from jobfs.state import directory as directories
from jobfs.state.journal import Journal
from jobfs.state.records import Change, File

JOB = "j" * 24
URL = "https://api.example.com"
#: What a status says to somebody who has an ended mount.
RECOVERY = f"jobfs recover {JOB} --base-url {URL}"


def a_status(**changed: Any) -> dict[str, Any]:
    """What a mount that is well answers, but for what is given."""
    status: Any = {
        "schema": document.SCHEMA,
        "problems": [],
        "directory": "/mnt/a", "job_id": JOB, "base_url": URL, "pid": 42, "read_only": False,
        "state_dir": "/state/a", "log": "/state/a/jobfs.log",
        "job": {
            "status": "processing", "ended": False, "current_step": 3, "total_steps": 12, "model": "claude-opus-4-5",
            "tokens": 12345, "age": 0.1,
        },
        "server": {
            "answering": True, "key_refused": False, "latency": 0.012, "last_error": None, "requests": 3, "stale": False,
        },
        "items": 57, "snapshot_age": 0.6, "effective_ttl": 4.0, "listing_seconds": 0.1, "listing_error": None,
        "cache": {"bytes": 1_300_000, "refused": None},
        "watching": {"programs": 0, "told": 0, "requests": 0},
        "taken_up": [], "unsent": [], "failed": [], "cleaning": [], "conflicts": [], "shadowed": [], "hostile": [],
        "foreign_hidden": [], "other_slots": [],
        **changed,
    }  # fmt: skip
    return {**status, "problems": document.list_problems(status, RECOVERY)}


def unsent(**changed: Any) -> dict[str, Any]:
    """A file that the server lacks, as a status tells it, but for what is given."""
    return {
        "path": "a.txt", "size": 3, "sent": 0, "age": 1.0, "attempts": 1, "reason": "", "state": "dirty",
        **changed,
    }  # fmt: skip


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


#: What the fixtures `run` and `answering` give.
Run = Callable[..., Outcome]
Make = Callable[..., "Answering"]


class MountTable:
    """The mounts of the machine, as a test says."""

    def __init__(self) -> None:
        self.mounts: list[MountInfo] = []
        #: The mount points of which the process is gone.
        self.dead: set[str] = set()
        #: The mount points of mounts that were there.
        self.unmounted: list[str] = []

    def add(
        self,
        point: str | Path,
        source: str = "",
        *,
        kind: str = "fuse.jobfs",
        user: int | None = None,
        dead: bool = False,
    ) -> str:
        """Add a mount, of this user unless another is given; return its mount point."""
        owner = os.geteuid() if user is None else user
        self.mounts.append(MountInfo("1", "0:1", str(point), kind, owner, source))
        self.dead |= {str(point)} if dead else set()
        return str(point)

    def unmount(self, point: str, *, lazy: bool) -> None:
        """Remove a mount; lazily, for programs may have files open in one that is dead."""
        assert lazy
        self.unmounted.append(point)
        self.mounts = [mount for mount in self.mounts if mount.point != point]
        self.dead.discard(point)


class JobCheck:
    """The question of `mount` and `doctor` to the server: the job has 57 items, or the server has an `objection`."""

    def __init__(self) -> None:
        self.objection: UsageError | None = None
        #: Called when the server is asked.
        self.when_asked: Callable[[], object] = lambda: None

    def count_items(self, *_: object) -> int:
        self.when_asked()
        if self.objection is not None:
            raise self.objection
        return 57


class Answering:
    """A slot in use, whose socket answers; nothing is mounted."""

    def __init__(self, state: Path, directory: str, **handlers: Any) -> None:
        self.slot = directories.acquire_state_directory(state, JOB, directory, URL)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._server = ControlServer(
            self.slot.path, {name: self._recording(name, handler) for name, handler in handlers.items()}
        )

    def _recording(self, name: str, handler: Any) -> Any:
        def answer(args: dict[str, Any], conversation: Any) -> Any:
            self.calls.append((name, args))
            return handler(args, conversation) if callable(handler) else handler

        return answer

    def end(self) -> None:
        self._server.close()
        self.slot.close()


def left_behind(state: Path, directory: str, *records: File | Change) -> directories.StateDirectory:
    """What a mount that was killed leaves."""
    place = directories.acquire_state_directory(state, JOB, directory, URL)
    journal = Journal(place.path / "journal.db")
    journal.write(*((record, {}) for record in records))
    journal.close()
    place.close()
    return place

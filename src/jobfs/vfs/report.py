"""The mount's report on itself: the status, and the files in `.jobfs/` (vfs/semantics.md 2 and 6)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobfs import document, names, process
from jobfs.api import deadline
from jobfs.api.models import Instance
from jobfs.errors import FsError, JobfsError
from jobfs.namespace.tree import is_never_shown
from jobfs.nodes import Attr, Kind
from jobfs.settings import shell_command
from jobfs.state import StateDirectory
from jobfs.state.backlog import age_of, read_backlog
from jobfs.state.directory import find_ended_of_job
from jobfs.vfs.view import View

#: Seconds until the job is asked for again.
_INSTANCE_AGE = 5.0
#: Seconds for which a status waits for the server, so that it returns within a second.
_PATIENCE = 0.8
#: Seconds since its last change after which a hidden item of another mount is reported.
_HIDDEN_OLD = 3600.0
_LEFT = "left more than an hour ago by mount %s, or by an interrupted `jobfs doctor --try`: run that again"
#: By the label of a second version: what the version at the file's name is, and what the second one is.
_KEPT = {
    "conflict": ("yours", "the job's"),
    "recovered": ("as it was saved", "of a save that was not finished"),
}
#: Inode number of `.jobfs/`; its files have greater ones. Small, so that no item has them.
_DIRECTORY = 2


class Report:
    """The status of a mount, and the files in `.jobfs/` that show it. Every method may be called from any thread."""

    def __init__(self, view: View, place: StateDirectory) -> None:
        self._view, self._place = view, place
        self._state, self._namespace, self._settings = view.state, view.namespace, view.settings
        self._client = view.write_back.client
        self._instance: Instance | None = None
        #: The part about programs that watch files; `ChangeNotifier` in live.py and `LookupOperations` update it.
        self.watching: document.WatchStatus = {"programs": 0, "told": 0, "requests": 0}
        #: When the server last answered about the job, and when it may be asked again (monotonic seconds).
        self._answered = self._next = 0.0
        #: The files in `.jobfs/`, each with a function that renders it.
        self.files: dict[str, Callable[[], bytes]] = {
            "job.json": self._render_job,
            "status.json": lambda: _as_json(self.status()),
            "pending": self._render_pending,
        }

    def _render_job(self) -> bytes:
        """Render the workspace instance as the server sent it, a few seconds old at most, or older if it does not answer."""
        self._refresh_job()
        return _as_json({} if self._instance is None else self._instance.raw)

    def status(self) -> document.Status:
        """Return the status of the mount.

        Ask for the job first, and read a first listing, but wait at most `_PATIENCE` for these.
        """
        self._refresh_job()
        facts, record = self._namespace.status(), self._place.record
        health, unsent = self._client.health, self.list_unsent()
        status: document.Status = {
            "schema": document.SCHEMA,
            "problems": [],
            "directory": record.directory,
            "job_id": record.job,
            "base_url": record.base_url,
            "pid": os.getpid(),
            "read_only": self._settings.read_only,
            "state_dir": str(self._place.path),
            "log": process.describe_log_target(),
            "job": self._job_status(),
            "server": {
                "answering": health.answering,
                "key_refused": health.key_refused,
                "latency": health.latency,
                "last_error": health.last_error,
                "requests": health.requests,
                "stale": facts.error is not None and facts.snapshot_age is not None,
            },
            "items": facts.items if facts.snapshot_age is not None else None,
            "snapshot_age": facts.snapshot_age,
            "effective_ttl": facts.effective_ttl,
            "listing_seconds": facts.listing_seconds,
            "listing_error": facts.error,
            "cache": {
                "bytes": self._view.content.used_bytes(),
                "refused": self._view.content.refusal_reason or None,
            },
            "watching": self.watching.copy(),
            "taken_up": self._view.write_back.taken_up,
            "unsent": unsent,
            "failed": [entry for entry in unsent if entry["state"] == "failed"],
            "cleaning": self._list_cleanups(),
            "conflicts": list(self._list_conflicts()),
            "shadowed": [{"path": path, "reason": why} for path, why in facts.shadowed],
            "hostile": [{"path": path, "reason": reason} for path, reason in facts.hostile],
            "foreign_hidden": list(self._list_foreign_hidden()),
            "other_slots": list(self._list_ended_mounts()),
        }
        status["problems"] = document.list_problems(status, self._settings.recovery_command(record.job))
        return status

    def fetch_job(self) -> document.JobStatus:
        """Ask the server for the job now, and return it. Raises ApiError."""
        self._next = time.monotonic() + _INSTANCE_AGE
        self._instance = self._client.get_instance()
        self._answered = time.monotonic()
        return self._job_status()

    def _refresh_job(self) -> None:
        """Ask for the job if the last answer is old, and read a first listing. Errors are only noted in the server's health."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _INSTANCE_AGE
        with contextlib.suppress(JobfsError), deadline.limit_time(_PATIENCE):
            self.fetch_job()
            if self._namespace.status().snapshot_age is None:
                self._namespace.children("")

    def _job_status(self) -> document.JobStatus:
        job = _as_mapping((self._instance.raw if self._instance else {}).get("expertJob"))
        status = _value_if_of_type(job, "status", str)
        return {
            "status": status,
            "ended": None if status is None else status in document.ENDED,
            "current_step": _value_if_of_type(job, "currentStep", int),
            "total_steps": _value_if_of_type(job, "totalSteps", int),
            "model": _value_if_of_type(job, "model", str),
            "tokens": _value_if_of_type(_as_mapping(job.get("usage")), "totalTokens", int),
            "age": round(time.monotonic() - self._answered, 1) if self._instance else None,
        }

    def _list_cleanups(self) -> list[document.CleanupEntry]:
        """Return the Changes of which only cleanup is left, but for probes, whose target is a hidden name."""
        with self._state.lock:
            return [
                {
                    "path": change.target,
                    "age": age_of(change),
                    "attempts": change.attempts,
                    "reason": str(change.error or ""),
                    "state": "failed" if change.cleanup_failed else "waiting",
                }
                for change in self._state.changes.values()
                if change.places_nothing_more and change.target == names.replace_hidden_names(change.target)
            ]

    def _list_conflicts(self) -> Iterator[document.ConflictEntry]:
        """Yield every second version, known by its name, that the server has or that is unsent here."""
        listed = {item.path for item in self._namespace.subtree("") if not item.is_dir}
        unsent = {file.path for file in self._state.backlog().files if file.path and file.kind is Kind.FILE}
        paths = listed | unsent
        for path in sorted(paths):
            if (kept := names.parse_second_version(path, paths)) and not is_never_shown(path):
                yield self._describe_conflict(path, *kept)

    def _describe_conflict(self, path: str, label: str, origin: str) -> document.ConflictEntry:
        exists = self._view.find_known(origin) is not None
        both = [f"{self._place.record.directory}/{name}" for name in (origin, path)]
        merges = exists and self._state.bases.find(path) is not None
        first, second = _KEPT[label]
        return {
            "path": path,
            "origin": origin,
            "reason": (f"{first}: {origin}" if exists else f"{origin} is gone") + f"; {second}: {path}",
            "diff": " ".join(("diff -u", *map(names.quote_for_shell, both))) if exists else None,
            "merge": shell_command("merge", both[0]) if merges else None,
        }

    def _list_foreign_hidden(self) -> Iterator[document.PathProblem]:
        now = deadline.steady_time() + self._client.server_time_offset
        for item in self._namespace.hidden_items():
            parts = names.parse_hidden_name(names.basename(item.path))
            old = now - item.updated_ns / 1e9 > _HIDDEN_OLD
            if old and parts is not None and parts.mount != self._place.mount_id:
                yield {"path": item.path, "reason": _LEFT % parts.mount}

    def _list_ended_mounts(self) -> Iterator[document.EndedMountEntry]:
        """Yield the ended mounts of this job that have unsent work, or an unreadable journal; clean ones are not read."""
        for found in find_ended_of_job(
            self._settings.state_dir, self._place.record.job, self._place.mount_id
        ):
            record, count = found.record, None
            if record is None or not record.clean:
                with contextlib.suppress(JobfsError):  # `jobfs recover` reports the error
                    count = len(read_backlog(found.path).to_entries())
                if count != 0:
                    directory = record.directory if record else None
                    yield {"path": str(found.path), "directory": directory, "left": count}

    def list_unsent(self, under: str | None = None) -> list[document.Unsent]:
        """Return what the server does not have yet, or has refused, at or below `under`. No request is made."""
        with self._state.lock:
            backlog = self._state.backlog(under or "")
            # Renames and removals only once they have failed, and are tried again.
            return backlog._replace(
                changes=[c for c in backlog.changes if c.attempts and not c.places_nothing_more]
            ).to_entries()

    def _render_pending(self) -> bytes:
        lines = []
        for entry in self.list_unsent():
            failed = (
                f"\tfailed: {names.escape_for_terminal(entry['reason'])}"
                if entry["state"] == "failed"
                else ""
            )
            lines.append(f"{names.escape_for_terminal(entry['path'])}{failed}\n")
        return "".join(lines).encode()

    # -- the directory `.jobfs/`: never listed in its parent

    def attr(self, name: str, size: int | None = None) -> Attr:
        """Return the attributes of the directory (""), or of a file in it; `size`: the size of an open file, in bytes.

        Raises FsError(ENOENT).
        """
        user = os.geteuid(), os.getegid()
        if not name:
            times = (int(self._place.record.started * 1e9),) * 3
            return Attr(_DIRECTORY, stat.S_IFDIR | 0o500, 2, *user, 0, *times)
        number, now = _DIRECTORY + 1 + sum(name.encode()), time.time_ns()
        size = len(self.read_file(name)) if size is None else size
        return Attr(number, stat.S_IFREG | 0o400, 1, *user, size, now, now, now)

    def list_entries(self, name: str) -> list[tuple[str, Attr]]:
        """Return the entries of the directory (""). Raises FsError(ENOTDIR) for a file."""
        if name:
            raise FsError(errno.ENOTDIR)
        return [(file, self.attr(file)) for file in self.files]

    def read_file(self, name: str, flags: int = os.O_RDONLY) -> bytes:
        """Return what a file in the directory holds now; a handle shows this until it is closed.

        Raises FsError(EACCES, ENOENT).
        """
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FsError(errno.EACCES)
        if name not in self.files:
            raise FsError(errno.ENOENT)
        return self.files[name]()


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _value_if_of_type(facts: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return the server's value of this name if it is a `kind` and not ""; else None."""
    value = facts.get(name)
    return value if isinstance(value, kind) and value != "" else None


def _as_json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()

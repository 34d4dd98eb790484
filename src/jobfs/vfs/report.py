"""What the mount says of itself: status, info of one path, and the files below `.jobfs/` (vfs/semantics.md 2 and 6)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field
from pydantic.alias_generators import to_camel

from jobfs import document, names, service
from jobfs.api import deadline
from jobfs.api.client import Client
from jobfs.api.models import Else, Instance
from jobfs.errors import FsError, JobfsError
from jobfs.namespace import Namespace
from jobfs.namespace.tree import never_shown
from jobfs.nodes import Attr, Item, Kind
from jobfs.settings import Settings
from jobfs.state import Change, File, StateDirectory
from jobfs.state.directory import Found, others
from jobfs.state.left import age, left_in, until
from jobfs.state.records import Stage, Verb
from jobfs.vfs.view import View

#: Seconds that a description of the job is good for, and until it is asked for again if there was no answer.
_INSTANCE_AGE, _AGAIN = 5.0, 1.0
#: Seconds that a status waits for the server: it answers within a second (vfs/semantics.md 6).
_PATIENCE = 0.5
_HIDDEN_OLD = 3600.0
_LEFT = "left by another mount more than an hour ago"
_TRIED = "left by a `jobfs doctor --try` that was broken off: run it again"
_KEPT = {
    "conflict": "changed by the job while it was being saved here, or found under a hidden name",
    "recovered": "written and never closed, closed just before the power went, or found under a hidden name",
}
#: Inode number of `.jobfs/`; those of its files come after it. Small, so that no item has them.
_DIRECTORY = 2

#: What the server says of its job; what is no such thing, it does not say.
_Text = Annotated[str | None, Field(min_length=1), Else(None)]
_Number = Annotated[int | None, Else(None)]


class _Tokens(BaseModel, alias_generator=lambda name: f"{to_camel(name)}Tokens"):
    input: _Number = None
    output: _Number = None
    reasoning: _Number = None
    cached_input: _Number = None
    total: _Number = None


class _Job(BaseModel, alias_generator=to_camel):
    id: _Text = None
    status: _Text = None
    current_step: _Number = None
    total_steps: _Number = None
    model: _Text = None
    expert: _Text = Field(default=None, validation_alias="expertKey")
    tokens: Annotated[_Tokens, Else(_Tokens())] = Field(default=_Tokens(), validation_alias="usage")


class Report:
    """Read-only facts, and the files of `.jobfs/` with them; every method may be called from any thread."""

    def __init__(
        self, view: View, client: Client, namespace: Namespace, slot: StateDirectory, settings: Settings
    ) -> None:
        self._view = view
        self._write_back = view.write_back
        self._state = view.state
        self._client = client
        self._namespace = namespace
        self._slot = slot
        self._settings = settings
        self._instance: Instance | None = None
        self._answered = 0.0
        #: What is being asked, or was, by name; and when each may be asked again.
        self._asking: dict[str, threading.Thread] = {}
        self._next: dict[str, float] = {}
        #: The files below `.jobfs/`, each with what it holds now.
        self.files: dict[str, Callable[[], bytes]] = {
            "job.json": self._job_file,
            "status.json": lambda: _as_json(self.status()),
            "pending": self._pending,
        }

    def _job_file(self) -> bytes:
        """The workspace instance as the server gave it, at most a few seconds old; the last one if it does not answer."""
        self._ask("instance", self._ask_for_job, deadline.UNBOUNDED)
        return _as_json({} if self._instance is None else self._instance.raw)

    def _ask(self, name: str, question: Callable[[], object], patience: float) -> None:
        """Have a thread ask, unless one does or did lately, and wait for it: `patience` seconds at most, and as long as this
        call may. The server may hang, and nobody has to wait for that.
        """

        def ask() -> None:
            # What went wrong is in the server's health, which is told beside the last answer.
            with contextlib.suppress(JobfsError), deadline.within():
                question()
                self._next[name] = time.monotonic() + _INSTANCE_AGE

        thread = self._asking.get(name)
        if (thread is None or not thread.is_alive()) and time.monotonic() >= self._next.get(name, 0.0):
            self._next[name] = time.monotonic() + _AGAIN
            thread = threading.Thread(target=ask, name=name, daemon=True)
            thread.start()
            self._asking[name] = thread
        if thread is not None:
            deadline.about_to_wait()
            thread.join(deadline.left(patience))

    def _ask_for_job(self) -> None:
        self._instance = self._client.instance()
        self._answered = time.monotonic()

    def status(self) -> document.Status:
        """The status of the mount; asks for the job, and lists the workspace if nobody has, and waits for neither for long."""
        self._look()
        facts, record = self._namespace.status(), self._slot.record
        listed, unsent = facts.snapshot_age is not None, self.unsent()
        status: document.Status = {
            "schema": document.SCHEMA,
            "problems": [],
            "directory": record.directory,
            "job_id": record.job,
            "base_url": record.base_url,
            "pid": os.getpid(),
            "mounted_at": record.started,
            "read_only": self._settings.read_only,
            "state_dir": str(self._slot.path),
            "log": service.log_goes_to(),
            "job": self._described_job(),
            "server": self._server(stale=facts.stale),
            # As long as nobody has listed them, what the server says.
            "items": facts.items if listed else getattr(self._instance, "count_items", None),
            "snapshot_age": facts.snapshot_age,
            "effective_ttl": facts.effective_ttl,
            "listing_seconds": facts.listing_seconds,
            "listing_error": facts.error,
            "cache": {"bytes": self._view.content.used(), "refused": self._view.content.refused or None},
            "taken_up": self._write_back.taken_up,
            "unsent": unsent,
            "failed": [entry for entry in unsent if entry["state"] == "failed"],
            "cleaning": self._cleaning(),
            "conflicts": self._conflicts(),
            "shadowed": [{"path": path, "id": item, "reason": why} for path, item, why in facts.shadowed],
            "hostile": [{"path": path, "reason": reason} for path, reason in facts.hostile],
            "foreign_hidden": self._foreign(self._namespace.hidden()),
            "other_slots": self._other_slots(),
        }
        status["problems"] = document.problems(status)
        return status

    def _look(self) -> None:
        """Ask for what the status needs of the server, and wait for it as long as a status may take.

        The first listing, which the counts and the conflicts come from, only of a server that has answered.
        """
        end = time.monotonic() + _PATIENCE
        self._ask("instance", self._ask_for_job, _PATIENCE)
        if self._instance is not None and self._namespace.status().snapshot_age is None:
            self._ask("first-listing", lambda: self._namespace.children(""), max(end - time.monotonic(), 0.0))

    def _described_job(self) -> document.Job:
        raw = self._instance.raw.get("expertJob") if self._instance else None
        job = _Job.model_validate(raw if isinstance(raw, dict) else {})
        ended = None if job.status is None else job.status in document.ENDED
        answered = round(time.monotonic() - self._answered, 1) if self._instance else None
        return cast("document.Job", {**job.model_dump(), "ended": ended, "age": answered})

    def _server(self, *, stale: bool) -> document.Server:
        health = self._client.health
        asked = health.last_ok is not None or health.last_error is not None
        return {
            "answering": health.answering if asked else None,
            "key_refused": health.key_refused,
            "latency": health.latency,
            "last_error": health.last_error,
            "requests": health.requests,
            "stale": stale,
        }

    def _cleaning(self) -> list[document.Cleaning]:
        with self._state.lock:
            return [
                {
                    "path": change.target,
                    "reason": _why_cleaned(change),
                    "age": age(change),
                    "next_try": until(min((aside.unsure_until for aside in change.asides), default=0.0)),
                }
                for change in self._state.changes.values()
                if change.settled or change.stage is Stage.CANCELLED
            ]

    def _conflicts(self) -> list[document.Conflict]:
        """Second versions that were kept beside their files, here or there, as their names tell; with where its file is."""
        listed = self._namespace.subtree("")
        there = {item.id: item.path for item in listed}
        ids = {item.path: item.id for item in listed if not item.is_dir}
        ids |= {f.path: f.item_id for f in self._state.left().files if f.path and f.kind is Kind.FILE}
        kept = {path: kept for path in ids if (kept := names.kept_beside(path)) and not never_shown(path)}
        return [self._conflict(path, *kept[path], self._winner(ids[path], there)) for path in sorted(kept)]

    def _conflict(self, path: str, label: str, origin: str, now: str | None) -> document.Conflict:
        if now is None and self._view.find_known(origin) is not None:
            now = origin
        mount = self._slot.record.directory
        ours, theirs = (shlex.quote(f"{mount}/{name}") for name in (now or "", path))
        return {
            "path": path,
            "origin": now or origin,
            "reason": _KEPT[label] if now else f"{_KEPT[label]}; {origin} is gone",
            "diff": f"diff -u {ours} {theirs}" if now else None,
        }

    def _winner(self, item_id: str, there: Mapping[str, str]) -> str | None:
        """Where the file is now that got the name of a second version, whoever has renamed which; None if that is not known."""
        with self._state.lock:
            winner = self._write_back.context.winners.get(item_id)
        if isinstance(winner, File) and winner.here:
            return winner.path
        path = there.get(winner.item_id if isinstance(winner, File) else winner or "")
        return None if path is None or never_shown(path) else path

    def _foreign(self, hidden: Iterable[Item]) -> list[document.Odd]:
        now = time.time() + self._client.server_time_offset
        found: list[document.Odd] = []
        for item in hidden:
            parts = names.parse_hidden(names.basename(item.path))
            own = parts is not None and parts.mount == self._slot.mount_id
            if now - item.updated_ns / 1e9 > _HIDDEN_OLD and not own:
                top = names.parse_hidden(item.path.partition("/")[0])
                tried = top is not None and top.role is names.Role.TRIED
                found.append({"path": item.path, "reason": _TRIED if tried else _LEFT})
        return found

    def _other_slots(self) -> list[document.Slot]:
        """Ended mounts of this job that have left something; those that said at their end that they had not are not read."""
        record = self._slot.record
        ended = others(self._settings.state_dir, record.job, record.mount_id)
        told = (_slot(found) for found in ended if not (found.record and found.record.clean))
        return [slot for slot in told if slot["left"] != 0]

    def unsent(self, under: str = "") -> list[document.Unsent]:
        """What the server does not have, or has refused, at or below `under`; asks nobody and changes nothing."""
        with self._state.lock:
            left = self._state.left(under)
            # A rename or a removal only once it has failed, and is tried again.
            return left._replace(changes=[c for c in left.changes if c.attempts and not c.over]).told()

    def _pending(self) -> bytes:
        shown = names.shown
        lines = [
            shown(entry["path"])
            + (f"\tfailed: {shown(entry['reason'])}" if entry["state"] == "failed" else "")
            for entry in self.unsent()
        ]
        return "".join(f"{line}\n" for line in lines).encode()

    # -- the directory `.jobfs/`: never listed in its parent

    def attr(self, name: str, size: int | None = None) -> Attr:
        """Attributes of the directory (""), or of a file in it, with this size if it is open. Raises FsError(ENOENT)."""
        user = os.geteuid(), os.getegid()
        if not name:
            times = (int(self._slot.record.started * 1e9),) * 3
            return Attr(_DIRECTORY, stat.S_IFDIR | 0o500, 2, *user, 0, *times)
        number, now = _DIRECTORY + 1 + sum(name.encode()), time.time_ns()
        size = len(self.content(name)) if size is None else size
        return Attr(number, stat.S_IFREG | 0o400, 1, *user, size, now, now, now)

    def entries(self, name: str) -> list[tuple[str, Attr]]:
        """What lies in the directory. Raises FsError(ENOTDIR) for a file."""
        if name:
            raise FsError(errno.ENOTDIR)
        return [(file, self.attr(file)) for file in self.files]

    def content(self, name: str, flags: int = os.O_RDONLY) -> bytes:
        """What a file in it holds now; it stays so for who has it open. Raises FsError(EACCES, ENOENT)."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise FsError(errno.EACCES)
        if name not in self.files:
            raise FsError(errno.ENOENT)
        return self.files[name]()


def _why_cleaned(change: Change) -> str:
    if change.stage is Stage.CANCELLED:
        return "what was begun is taken back"
    what = "removed" if change.verb is Verb.REMOVE else "replaced"
    return f"what was {what} is looked at once more, then deleted"


def _slot(found: Found) -> document.Slot:
    left, error = None, None
    try:
        left = left_in(found.path).told()
    except JobfsError as failure:
        error = str(failure)
    return {
        "path": str(found.path),
        "directory": found.record.directory if found.record else None,
        "left": None if left is None else len(left),
        "bytes": None if left is None else sum(entry["size"] for entry in left),
        "error": error,
    }


def _as_json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()

"""What the mount says of itself: status, info of one path, and the files below `.jobfs/` (semantics.md sections 2 and 6)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from jobfs import names
from jobfs.api import Client, deadline
from jobfs.errors import ApiError, FsError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save.queue import within
from jobfs.state import File
from jobfs.state.tables import is_unmade
from jobfs.vfs.view import Node, View

_INSTANCE_AGE = 5.0
#: Seconds that a status waits for the server: it answers within a second (semantics.md section 6).
_PATIENCE = 0.5
_HIDDEN_OLD = 3600.0
_KEPT = {
    "conflict": "changed by the job while it was being saved here, or found under a hidden name",
    "recovered": "closed just before the power went, or found under a hidden name",
}


class Report:
    """Read-only facts; every method may be called from any thread."""

    def __init__(self, view: View, client: Client, namespace: Namespace) -> None:
        self._view = view
        self._write_back = view.write_back
        self._state = view.state
        self._client = client
        self._namespace = namespace
        self._instance: dict[str, Any] = {}
        self._asked = 0.0
        self._asking: threading.Event | None = None
        #: The files below `.jobfs/`, each with what it holds now.
        self.files: dict[str, Callable[[], bytes]] = {
            "job.json": lambda: _as_json(self.instance()),
            "status.json": lambda: _as_json(self.status()),
            "pending": self._pending,
        }

    def instance(self, patience: float | None = None) -> dict[str, Any]:
        """The workspace instance as the server gave it, at most a few seconds old; the last one if it does not answer.

        `patience`: seconds to wait for the answer, however long the request goes on.
        """
        if self._instance and time.monotonic() - self._asked <= _INSTANCE_AGE:
            return self._instance
        asking = self._asking
        if asking is None or asking.is_set():
            # Two that come at one instant may both ask, which costs one request more.
            asking = self._asking = threading.Event()
            threading.Thread(target=self._ask, args=(asking,), name="instance", daemon=True).start()
        asking.wait(deadline.left(deadline.UNBOUNDED if patience is None else patience))
        return self._instance

    def _ask(self, answered: threading.Event) -> None:
        try:
            with deadline.within():  # somebody waits for it
                self._instance = dict(self._client.instance().raw)
        except ApiError:
            pass  # status says that the server does not answer
        finally:
            self._asked = time.monotonic()
            answered.set()

    def status(self) -> dict[str, Any]:
        """Everything `jobfs status --json` shows; no request but at most one for the job itself, which is not waited for long."""
        job = self.instance(_PATIENCE).get("expertJob")
        job = job if isinstance(job, dict) else {}
        health = self._client.health
        facts = self._namespace.status()
        now = time.time() + self._client.server_time_offset
        return {
            "job": {
                "id": job.get("id"),
                "status": job.get("status"),
                "current_step": job.get("currentStep"),
                "total_steps": job.get("totalSteps"),
                "model": job.get("model"),
                "expert": job.get("expertKey"),
            },
            "server": {
                "answering": health.answering,
                "key_refused": health.key_refused,
                "latency": health.latency,
                "last_error": health.last_error,
                "requests": health.requests,
                "stale": facts.stale,
            },
            "items": facts.items,
            "snapshot_age": facts.snapshot_age,
            "effective_ttl": facts.effective_ttl,
            "listing_seconds": facts.listing_seconds,
            "cache": {"bytes": self._view.content.used()},
            "taken_up": self._write_back.taken_up,
            "unsent": self._unsaved(refused=False),
            "failed": self._unsaved(refused=True),
            "conflicts": [
                {"path": item.path, "origin": origin, "reason": _KEPT[label]}
                for item, label, origin in self._kept()
            ],
            "shadowed": [
                {"path": path, "id": item_id, "reason": reason} for path, item_id, reason in facts.shadowed
            ],
            "hostile": [{"path": path, "reason": reason} for path, reason in facts.hostile],
            "foreign_hidden": [
                {"path": item.path, "reason": "left by another mount more than an hour ago"}
                for item in facts.hidden
                if now - item.updated_ns / 1e9 > _HIDDEN_OLD and not self._own(item)
            ],
        }

    def _own(self, item: Item) -> bool:
        parts = names.parse_hidden(names.basename(item.path))
        return parts is not None and parts.mount == self._write_back.context.mount

    def _kept(self) -> list[tuple[Item, str, str]]:
        """Second versions that were kept beside their files, with the label and the path that their names tell."""
        found = []
        for item in self._namespace.subtree(""):
            kept = names.kept_beside(item.path)
            if kept is not None and not item.is_dir:
                found.append((item, *kept))
        return sorted(found, key=lambda kept: kept[0].path)

    def unsent(self, under: str | None = None) -> list[dict[str, Any]]:
        """What the server does not have, or has refused, at or below `under`; asks nobody and changes nothing."""
        entries = [*self._unsaved(refused=False), *self._unsaved(refused=True)]
        return [entry for entry in entries if within(entry["path"], under or "")]

    def _unsaved(self, *, refused: bool) -> list[dict[str, Any]]:
        """What the server does not have yet; age and next_try in seconds, size in bytes."""
        with self._state.lock:
            files = sorted(self._state.unsaved(), key=lambda file: file.generation)
            entries = [self._entry(file) for file in files if bool(file.refused) == refused]
            if not refused:
                entries += [
                    {
                        "path": file.path,
                        "size": file.local.size,
                        "reason": "open and changed",
                        "state": "dirty",
                    }
                    for file in self._state.opened.values()
                    if file.local is not None and file.path and not (file.stays or file.generation)
                ]
        return entries

    @staticmethod
    def _entry(file: File) -> dict[str, Any]:
        change = file.change
        is_open = bool(file.handles) and (change is None or not change.attempts)
        running = change is not None and change.running
        reason = file.refused or str((change and change.error) or ("open in a program" if is_open else ""))
        waits = max(change.due - time.monotonic(), 0.0) if change is not None else 0.0
        return {
            "path": file.path,
            "size": file.size,
            "age": round(max(time.time() - change.made, 0.0), 1) if change is not None else None,
            "attempts": change.attempts if change is not None else 0,
            "reason": reason,
            "next_try": None if file.refused or running or is_open else round(waits, 1),
            "state": "uploading" if running else str(change.stage) if change is not None else "failed",
        }

    def _pending(self) -> bytes:
        lines = [f"{entry['path']}\n" for entry in self._unsaved(refused=False)]
        lines += [f"{entry['path']}\tfailed: {entry['reason']}\n" for entry in self._unsaved(refused=True)]
        return "".join(lines).encode()

    def info(self, path: str) -> dict[str, Any]:
        """What the API and this machine know of one path. Raises FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        item = node if isinstance(node, Item) else node.item
        state, error = self._condition(node)
        facts: dict[str, Any] = {"path": path, "state": state, "error": error}
        if item is not None:
            facts |= {
                "id": item.id,
                "type": str(item.kind),
                "owner": item.owner,
                "lifecycle": str(item.lifecycle),
                "permission": str(item.permission),
                "mime_type": item.mime_type,
                "key": item.key,
                "created_at": item.created_at,
                "updated_at": item.updated_at,
            }
        facts["size"] = self._view.attr(node).size
        return facts

    @staticmethod
    def _condition(node: Node) -> tuple[str, str]:
        """Its state, and what went wrong with its last save."""
        if isinstance(node, Item):
            return "conflict" if names.kept_beside(node.path) is not None else "clean", ""
        if node.stays:
            return "local", ""
        if node.refused:
            return "failed", node.refused
        change = node.change
        if change is not None:
            return "uploading" if change.running else "dirty", str(change.error or "")
        return "dirty" if node.local is not None or is_unmade(node) else "clean", ""

    def content(self, name: str) -> bytes:
        """What a file below `.jobfs/` holds now. Raises FsError(ENOENT)."""
        try:
            return self.files[name]()
        except KeyError:
            raise FsError(2) from None


def _as_json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()

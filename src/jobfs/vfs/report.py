"""What the mount says of itself: status, info of one path, and the files below `.jobfs/` (semantics.md sections 2 and 6)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from jobfs import names
from jobfs.api import Client
from jobfs.errors import ApiError, FsError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.vfs.view import Node, View
from jobfs.writeback import Inode
from jobfs.writeback.records import SaveKind, State
from jobfs.writeback.transaction import Transaction

_INSTANCE_AGE = 5.0
#: Seconds that a status waits for the server: it answers within a second (semantics.md section 6).
_PATIENCE = 0.5
_HIDDEN_OLD = 3600.0


class Report:
    """Read-only facts; every method may be called from any thread."""

    def __init__(self, view: View, client: Client, namespace: Namespace) -> None:
        self._view = view
        self._engine = view.engine
        self._client = client
        self._namespace = namespace
        self._lock = threading.Lock()
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
        with self._lock:
            if self._instance and time.monotonic() - self._asked <= _INSTANCE_AGE:
                return self._instance
            if self._asking is None:
                self._asking = threading.Event()
                threading.Thread(target=self._ask, args=(self._asking,), name="instance", daemon=True).start()
            asking = self._asking
        asking.wait(patience)
        return self._instance

    def _ask(self, answered: threading.Event) -> None:
        try:
            self._instance = dict(self._client.instance().raw)
        except ApiError:
            pass  # status says that the server does not answer
        finally:
            with self._lock:
                self._asked, self._asking = time.monotonic(), None
            answered.set()

    def status(self) -> dict[str, Any]:
        """Everything `jobfs status --json` shows; no request but at most one for the job itself, which is not waited for long."""
        job = self.instance(_PATIENCE).get("expertJob") or {}
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
            "cache": {"bytes": self._engine.content.used()},
            "taken_up": self._engine.taken_up,
            "unsent": self._transactions(refused=False),
            "failed": self._transactions(refused=True),
            "conflicts": [
                {"path": kept.path, "origin": kept.origin, "reason": kept.reason}
                for kept in self._engine.conflicts()
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
        return parts is not None and parts.mount == self._engine.mount

    def unsent(self, under: str | None = None) -> list[dict[str, Any]]:
        """What the server does not have, or has refused, at or below `under`; asks nobody and changes nothing."""
        return [
            entry
            for refused in (False, True)
            for entry in self._transactions(refused=refused)
            if not under or entry["path"] == under or names.under(entry["path"], under)
        ]

    def _transactions(self, *, refused: bool) -> list[dict[str, Any]]:
        entries = []
        for work in self._engine.uploader.live():
            if work.settled or work.save.state is State.CANCELLED or bool(work.save.refused) != refused:
                continue
            entries.append(self._entry(work))
        if not refused:
            known = {entry["path"] for entry in entries}
            entries += [
                {"path": inode.path, "size": inode.local.size, "reason": "open and changed", "state": "dirty"}
                for inode in self._engine.table.all()
                if inode.local is not None and inode.path and not inode.local_only and inode.path not in known
            ]
        return entries

    @staticmethod
    def _entry(work: Transaction) -> dict[str, Any]:
        """One unsent save; age and next_try in seconds, size in bytes."""
        waits = max(work.due - time.monotonic(), 0.0)
        is_open = work.inode is not None and bool(work.inode.handles) and not work.attempts
        reason = work.save.refused or str(work.error or ("open in a program" if is_open else ""))
        return {
            "path": work.save.target,
            "size": work.save.size,
            "age": round(max(time.time() - work.save.made, 0.0), 1),
            "attempts": work.attempts,
            "reason": reason,
            "next_try": None if work.save.refused or work.running or is_open else round(waits, 1),
            "state": "uploading" if work.running else str(work.save.state),
        }

    def _pending(self) -> bytes:
        lines = [f"{entry['path']}\n" for entry in self._transactions(refused=False)]
        lines += [
            f"{entry['path']}\tfailed: {entry['reason']}\n" for entry in self._transactions(refused=True)
        ]
        return "".join(lines).encode()

    def info(self, path: str) -> dict[str, Any]:
        """What the API and this machine know of one path. Raises FsError(ENOENT), ApiError."""
        node = self._view.get(path)
        item = node if isinstance(node, Item) else node.item
        state, error = self._state(node)
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

    def _state(self, node: Node) -> tuple[str, str]:
        if isinstance(node, Item):
            if any(kept.path == node.path for kept in self._engine.conflicts()):
                return "conflict", ""
            return "clean", ""
        return self._inode_state(node)

    def _inode_state(self, inode: Inode) -> tuple[str, str]:
        if inode.local_only:
            return "local", ""
        work = inode.current
        if work is not None and work.save.kind is SaveKind.SAVE:
            if work.save.refused:
                return "failed", work.save.refused
            error = str(work.error) if work.error else ""
            return ("uploading" if work.running else "dirty"), error
        return "dirty" if inode.local is not None else "clean", ""

    def content(self, name: str) -> bytes:
        """What a file below `.jobfs/` holds now. Raises FsError(ENOENT)."""
        try:
            return self.files[name]()
        except KeyError:
            raise FsError(2) from None


def _as_json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()

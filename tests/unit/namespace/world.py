"""A world for these tests: a clock that moves on request, a server in memory, a job that changes it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

from tests.support.clocks import Clock

from jobfs import names
from jobfs.api.client import Client
from jobfs.api.health import Health
from jobfs.api.models import Page
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.namespace import Namespace
from jobfs.nodes import Item, Kind, Lifecycle

TTL = 5.0
KERNEL = 1.0
STALE = 300.0

Hook = Callable[[str, Any], None]


def nothing(_operation: str, _argument: Any) -> None:
    """The hook that does nothing."""


class Server:
    """The workspace instance in memory; `before` runs before an answer is made, `after` before it is sent."""

    max_connections = 4

    def __init__(self) -> None:
        self.health = Health()
        self.items: dict[str, Item] = {}
        self.requests: list[tuple[str, Any]] = []
        #: What requests of an operation ("": of any) fail with.
        self.errors: dict[str, ApiError] = {}
        self.before: Hook = nothing
        self.after: Hook = nothing
        self.cap = 100
        self.told_total: Callable[[int], int] = lambda total: total
        self.unknown: list[str] = []
        self.shuffle: random.Random | None = None
        self._lock = threading.RLock()
        self._ids: Iterator[int] = itertools.count(1)
        self._times: Iterator[int] = itertools.count(1)

    # the API

    def list_page(self, take: int, skip: int) -> Page:
        self._enter("list", skip)
        with self._lock:
            everything: list[Item | str] = [*self.items.values(), *self.unknown]
            if self.unknown:
                everything.sort(key=lambda entry: entry if isinstance(entry, str) else entry.id)
            if self.shuffle is not None:
                self.shuffle.shuffle(everything)
            part = everything[skip : skip + min(take, self.cap)]
            items = [entry for entry in part if isinstance(entry, Item)]
            unknown = tuple(entry for entry in part if isinstance(entry, str))
            page = Page(items, self.told_total(len(everything)), take, unknown)
        self.after("list", skip)
        return page

    def find(self, path: str) -> list[Item]:
        if not path:
            return []  # as the client, without a request
        try:
            self._enter("find", path)
        except NotFoundError as gone:
            raise UnavailableError(str(gone), status=gone.status) from None  # as the client
        with self._lock:
            found = [item for item in self.items.values() if item.path == path]
        self.after("find", path)
        return found

    def get(self, item_id: str) -> Item:
        self._enter("get", item_id)
        with self._lock:
            item = self.items.get(item_id)
        self.after("get", item_id)
        if item is None:
            raise NotFoundError("no such item", status=404)
        return item

    def require_workspace(self) -> None:
        self._enter("workspace", "")

    def probe_recovery(self) -> bool:
        """As the client's, at each call: how often it is asked, and how long for, is the client's matter."""
        self.requests.append(("answers", ""))
        return not self.errors

    def _enter(self, operation: str, argument: Any) -> None:
        with self._lock:
            self.requests.append((operation, argument))
        self.before(operation, argument)
        if error := self.errors.get(operation) or self.errors.get(""):
            raise error

    # the job

    def file(self, path: str, **fields: Any) -> Item:
        return self._make(Kind.FILE, path, fields)

    def directory(self, path: str, **fields: Any) -> Item:
        return self._make(Kind.DIRECTORY, path, fields)

    def rewrite(self, item: Item) -> Item:
        return self._store(replace(self.items[item.id], **self._stamp()))

    def move(self, item: Item, path: str) -> Item:
        with self._lock:
            old = self.items[item.id].path
            for other in list(self.items.values()):
                if names.is_below(other.path, old):
                    self._store(replace(other, path=names.path_after_rename(other.path, old, path)))
            return self._store(replace(self.items[item.id], path=path))

    def delete(self, item: Item) -> None:
        with self._lock:
            gone = self.items.pop(item.id)
            for other in list(self.items.values()):
                if gone.is_dir and names.is_below(other.path, gone.path):
                    del self.items[other.id]

    def _make(self, kind: Kind, path: str, fields: dict[str, Any]) -> Item:
        given = {"id": f"{next(self._ids):024d}", "size": 1, **self._stamp(), **fields}
        return self._store(Item(kind=kind, path=path, **given))

    def _store(self, item: Item) -> Item:
        with self._lock:
            self.items[item.id] = item
        return item

    def _stamp(self) -> dict[str, Any]:
        moment = next(self._times)
        return {"updated_at": f"2025-01-01T00:00:00.{moment:06d}Z", "updated_ns": moment * 1000}

    # what was asked

    def asked(self) -> list[tuple[str, Any]]:
        """The requests since the last time this was called."""
        with self._lock:
            asked, self.requests = self.requests, []
        return asked

    def operations(self) -> list[str]:
        """The kinds of requests since then."""
        return [operation for operation, _ in self.asked()]


class World:
    """Server, clock and namespace together; a pause is noted, and runs `during_pause` instead of waiting."""

    def __init__(self) -> None:
        self.server = Server()
        self.clock = Clock()
        self.pauses: list[float] = []
        self.during_pause: Callable[[], object] = lambda: None
        given: dict[str, Any] = {"ttl": TTL, "kernel_timeout": KERNEL, "stale_if_error": STALE}
        self.namespace = Namespace(cast(Client, self.server), clock=self.clock, pause=self._pause, **given)

    def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.during_pause()

    def expire(self) -> None:
        """Let everything that is known become older than the TTL."""
        self.clock.advance(TTL + 0.001)

    def listed(self, files: int = 0) -> None:
        """With so many more files, all is listed, and older than the TTL; nobody was asked since."""
        for number in range(files):
            self.server.file(f"f{number:04d}")
        self.namespace.refresh()
        self.expire()
        self.server.asked()


def item(path: str, item_id: str = "", **fields: Any) -> Item:
    """A file of the job at `path`, its id made of the path unless given."""
    given = {"kind": Kind.FILE, "lifecycle": Lifecycle.EXPERT_JOB, **fields}
    return Item(id=item_id or f"id of {path}", path=path, **given)

"""What every part of a save works with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cachetools import LRUCache

from jobfs import names
from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.errors import BadRequestError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.state import State, edit
from jobfs.state.server import KnownServer, ServerFacts

log = logging.getLogger("jobfs.save")

#: Items that are remembered.
_REMEMBERED = 2048


@dataclass(eq=False)
class Context:
    """One for a mount. Every method may be called from any thread.

    `beside` runs what is asked, hashed or read beside an upload. `mount`: the id in hidden names. `lifetime`: seconds that a
    request may still be carried out after its connection died (R7). `timeout` in seconds, `cache_limit` in bytes.
    """

    client: Client
    namespace: Namespace
    content: ContentStore
    state: State
    beside: ThreadPoolExecutor
    mount: str
    lifetime: float
    timeout: float
    cache_limit: int
    server: KnownServer
    #: By the id of an item that was renamed while a request on it might still be carried out, the path that it has here.
    _contested: LRUCache[str, str] = field(default_factory=lambda: LRUCache(_REMEMBERED))
    #: By the id of an item, until when a request on it may still be carried out.
    _unsure: dict[str, float] = field(default_factory=dict)

    @property
    def known(self) -> ServerFacts:
        """What is known of this server."""
        return self.server.facts

    def renamed(self, item_id: str, path: str) -> None:
        """This mount has given an item another name; a request from before may take it back as long as one may be carried out."""
        with self.state.lock:
            if item_id in self._contested or self.unsure_until(item_id) > time.monotonic():
                self._contested[item_id] = path

    def renamed_directory(self, old: str, new: str) -> None:
        """This mount has given a directory another name: a late request may take what is in it back to the old one."""
        with self.state.lock:
            for item_id, path in list(self._contested.items()):
                if names.under(path, old):
                    self._contested[item_id] = names.moved(path, old, new)
            for item in self.namespace.subtree(new) if self._unsure else ():
                if names.parse_hidden(names.basename(item.path)) is None:
                    self.renamed(item.id, item.path)

    def touched(self, before: Item, after: Item) -> None:
        """Our own request may have changed the `updatedAt` of an item: what is remembered of that version goes on to hold."""
        with self.state.lock:
            file = self.state.of(after)
            if file is not None and not file.here and file.version == before.updated_at != after.updated_at:
                self.state.write(edit(file, version=after.updated_at))

    def is_elsewhere(self, item_id: str, path: str) -> bool:
        """True if a late request may have brought an item to this path, from the one that this mount has given it since."""
        with self.state.lock:
            return self._contested.get(item_id, path) != path

    def check_form(self, item: Item, asked: str, back: str) -> None:
        """What the server keeps under another form of the path that was `asked` for goes `back` to its own, and is refused (R6).

        Raises BadRequestError then, ApiError if it can't go back.
        """
        if told := names.other_form(asked, item.path):
            self.client.update(item.id, path=back)
            raise BadRequestError(told, endpoint="update item")

    def may_come_until(self) -> float:
        """Until when a request that goes unanswered now may be carried out, in monotonic seconds (R7)."""
        return time.monotonic() + self.lifetime

    def age(self, item: Item) -> float:
        """Seconds since the item's `updatedAt`, by the server's clock."""
        return time.time() + self.client.server_time_offset - item.updated_ns / 1e9

    def unanswered(self, item_id: str) -> float:
        """A request on the item went unanswered, or may have; returns until when it may be carried out (monotonic s, R7)."""
        now, until = time.monotonic(), self.may_come_until()
        with self.state.lock:
            self._unsure = {other: until for other, until in self._unsure.items() if until > now}
            self._unsure[item_id] = until
        return until

    def unsure_until(self, item_id: str) -> float:
        """Until when a request on the item may still be carried out, in monotonic seconds; 0.0 if none is known."""
        return self._unsure.get(item_id, 0.0)

    def touch_directory(self, path: str) -> None:
        """Something was made, renamed or removed in a directory by this mount: its times are now."""
        file = self.state.at(path) if path else None
        if file is not None:
            now = time.time_ns()
            self.state.apply(file, mtime_ns=now, ctime_ns=now)
            return
        item = self.namespace.peek(path)
        if item is not None and item.is_dir:
            self.namespace.note_names(path, self.state.touch(item, content=True))

    def in_background(self, task: Callable[[], object]) -> None:
        """Run something that nobody waits for; what goes wrong is logged."""

        def guarded() -> None:
            try:
                task()
            except Exception as error:
                log.warning("background work failed: %s", error)

        self.beside.submit(guarded)

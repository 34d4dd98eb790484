"""A world for these tests: a server in memory that loses answers and lets the job act between requests, and a state."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar, cast

from tests.support import items

from jobfs import names
from jobfs.api.bodies import CreateForm
from jobfs.api.client import Client
from jobfs.api.connection_queue import Priority
from jobfs.api.health import Health
from jobfs.api.wire import HeldConnection
from jobfs.content import ContentHandle, ContentStore
from jobfs.content.store import ActiveDownloads
from jobfs.errors import AnswerLostError, BadRequestError, NotFoundError, PathExistsError, UnavailableError
from jobfs.namespace import Namespace
from jobfs.nodes import Item, Kind, Permission, Version
from jobfs.save import WriteBack
from jobfs.save.writeback import Intervals
from jobfs.settings import Settings
from jobfs.state import Change, File, edit
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import Aside, Base, Handle, Stage, Verb
from jobfs.state.server import KnownServer
from jobfs.state.tables import State

R = TypeVar("R", File, Change)
OLD, NEW = b"old", b"new"
MOUNT, TID, hidden = items.MOUNT, items.TID, items.hidden


def away(error: Exception | None = None) -> None:
    """The answer of a server that can't be reached, or this one."""
    raise error or UnavailableError("nobody there")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakeClient:
    """The workspace in memory.

    `done`: the requests that may change something, and downloads. `before[endpoint]`: called with the next requests to it;
    raises what they are answered. `on_request`: called before each request. `lose`: answers to the next changing requests are
    lost, after they were `carried_out`.
    """

    max_connections = 4
    server_time_offset = 0.0
    working_forms: ClassVar[dict[Kind, CreateForm]] = {}
    base_url = "http://127.0.0.1"

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.contents: dict[str, bytes] = {}
        self.done: list[str] = []
        self.before: dict[str, list[Callable[[], object]]] = {}
        self.after_download: Callable[[], object] = lambda: None
        self.on_request: Callable[[], object] = lambda: None
        self.lose, self.carried_out, self.lost = 0, True, AnswerLostError
        #: Whether the answer to an upload comes before its last piece was seen to go out.
        self.answers_early = False
        self.moves_touch = False
        self.health = Health()
        self.health.latency = 0.001
        #: The paths of refused moves for which the real client asks the server for the reason.
        self.explained: list[str] = []
        #: The items of changes that name no kind: then the real client accepts any kind in the reply.
        self.unchecked: list[str] = []
        #: Whether two connections are free at once.
        self.has_two_connections = True
        #: The thread that holds two connections, None if there is none.
        self._holder: int | None = None
        self._version = 0

    def probe_and_require_reachable(self, subject: object) -> None:
        self.health.require_reachable(subject)

    # -- what the job does

    def put(self, item_id: str, path: str, content: bytes | None = b"", **values: Any) -> Item:
        """An item, with content or (None) a directory."""
        self._version += 1
        kind = Kind.DIRECTORY if content is None else Kind.FILE
        size = None if content is None else len(content)
        values = {"updated_at": f"version {self._version}", "updated_ns": self._version, **values}
        self.items[item_id] = Item(item_id, kind, path, size=size, **values)
        self.contents[item_id] = content or b""
        return self.items[item_id]

    def touched(self, item_id: str) -> Item:
        """Another `updatedAt`, the same bytes."""
        self._version += 1
        self.items[item_id] = replace(self.items[item_id], updated_at=f"version {self._version}")
        return self.items[item_id]

    @property
    def paths(self) -> dict[str, str]:
        return {item.id: item.path for item in self.items.values()}

    # -- requests

    def _asked(self, endpoint: str) -> None:
        self.on_request()
        if waiting := self.before.get(endpoint):
            waiting.pop(0)()

    def fail(self, endpoint: str, *errors: Exception) -> None:
        """Answer the next requests to an endpoint with these errors."""
        self.before.setdefault(endpoint, []).extend(partial(away, error) for error in errors)

    def _answer(self, change: Callable[[], Item | None]) -> Any:
        if not self.lose:
            return change()
        self.lose -= 1
        if self.carried_out:
            change()
        raise self.lost("lost")

    @contextmanager
    def hold_connection(self, subject: object) -> Iterator[object]:
        self._asked("turn")
        yield "a connection"

    @contextmanager
    def hold_two_connections(self, subject: object) -> Iterator[tuple[HeldConnection, HeldConnection] | None]:
        if not self.has_two_connections:
            yield None
            return
        self._holder = threading.get_ident()
        try:
            yield HeldConnection(Priority.SMALL), HeldConnection(Priority.SMALL)
        finally:
            self._holder = None

    def get(self, item_id: str, *, connection: object = None) -> Item:
        waits = connection is None and self._holder == threading.get_ident()
        assert not waits, "a thread that holds connections never waits for another"
        if isinstance(connection, HeldConnection):
            connection.sent_event.set()
        self._asked("get")
        if item_id not in self.items:
            raise NotFoundError("gone")
        return self.items[item_id]

    def find(self, path: str) -> list[Item]:
        self._asked("find")
        return [item for item in self.items.values() if item.path == path]

    def download(self, item_id: str, *, size: int | None = None) -> Any:
        @contextmanager
        def body() -> Iterator[SimpleNamespace]:
            self.done.append(f"download {item_id}")
            if item_id not in self.contents:
                raise NotFoundError("gone")
            content = self.contents[item_id]
            yield SimpleNamespace(chunks=lambda: iter((content[:2], content[2:])))
            self.after_download()

        return body()

    def delete(self, item_id: str, *, connection: object = None) -> None:
        self.done.append(f"delete {item_id}" if connection else f"delete {item_id} again and again")
        self._asked("delete")

        def change() -> None:
            if item_id not in self.items:
                raise NotFoundError("gone")
            del self.items[item_id], self.contents[item_id]

        self._answer(change)

    def update(self, item_id: str, *, connection: object = None, explain: bool = True, **wanted: Any) -> Item:
        path = wanted.get("path")
        self.done.append(f"move {path}")
        self.unchecked += [item_id] * ("kind" not in wanted)
        if isinstance(connection, HeldConnection):
            connection.sent_event.set()
        try:
            self._asked("update")
        except BadRequestError:
            self.explained += [str(path)] * explain
            raise

        def change() -> Item:
            if item_id not in self.items:
                raise NotFoundError("gone")
            if any(item.path == path and item.id != item_id for item in self.items.values()):
                raise PathExistsError("exists")
            changed = {name: value for name, value in wanted.items() if value is not None}
            self.items[item_id] = replace(self.items[item_id], **changed)
            return self.touched(item_id) if self.moves_touch else self.items[item_id]

        return cast(Item, self._answer(change))

    def create_file(
        self,
        path: str,
        source: Path,
        size: int,
        permission: Permission,
        on_piece: Any = lambda before, piece: None,
    ) -> Item:
        content = source.read_bytes()[:size]
        # The first attempt breaks off.
        for before, piece in [(0, content[:1]), (0, content[:1]), (1, content[1:]), (size, b"")]:
            if not self.answers_early:
                on_piece(before, piece)
        return self._create(path, content, permission)

    def create_directory(self, path: str, permission: Permission) -> Item:
        return self._create(path, None, permission)

    def _create(self, path: str, content: bytes | None, permission: Permission) -> Item:
        self.done.append(f"create {path}")
        self._asked("create")

        def change() -> Item:
            if any(item.path == path for item in self.items.values()):
                raise PathExistsError("exists")
            return self.put(f"made {len(self.done)}", path, content, permission=permission)

        return cast(Item, self._answer(change))


class JobInMemory:
    """The job's side of a FakeClient: the methods of JobSide that the acts of the list call (tests/support/interferences.py)."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._numbers = itertools.count(1)
        self.lock = threading.RLock()

    def items(self) -> list[Item]:
        return list(self._client.items.values())

    def items_at(self, path: str) -> list[Item]:
        return [item for item in self.items() if item.path == path]

    def item_at(self, path: str) -> Item:
        return self.items_at(path)[-1]

    def exists(self, path: str) -> bool:
        return bool(self.items_at(path))

    def content_of(self, item_id: str) -> bytes:
        return self._client.contents[item_id]

    def read(self, path: str) -> bytes:
        return self.content_of(self.item_at(path).id)

    def seed(self, tree: Mapping[str, bytes]) -> None:
        for path, content in tree.items():
            above = names.parent(path)
            if above and not self.exists(above):
                self._client.put(f"job {next(self._numbers)}", above, None)
            self._client.put(f"job {next(self._numbers)}", path, content)

    def write(self, path: str, content: bytes) -> None:
        if self.exists(path):
            self._client.put(self.item_at(path).id, path, content)
        else:
            self.seed({path: content})

    def append(self, path: str, content: bytes) -> None:
        self.write(path, (self.read(path) if self.exists(path) else b"") + content)

    def replace(self, path: str, content: bytes) -> None:
        self.delete(path)
        self.seed({path: content})

    def delete(self, path: str) -> None:
        for item in self.items():
            if names.is_at_or_below(item.path, path):
                del self._client.items[item.id], self._client.contents[item.id]

    def move(self, old: str, new: str) -> None:
        moving = self.items_at(old)
        self.delete(new)
        for item in moving:
            self._client.items[item.id] = replace(item, path=new)
            if self._client.moves_touch:
                self._client.touched(item.id)

    def set_permission(self, path: str, permission: str) -> None:
        item = self._client.touched(self.item_at(path).id)
        self._client.items[item.id] = replace(item, permission=Permission(permission))


class FakeNamespace:
    """The last listing shows what the server has, unless a test says otherwise; `updates`: the calls that changed it."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self.updates: list[str] = []
        self.refreshed = self.snapshot_number = 0
        self.listed = 0.0
        self.is_unreachable = False
        self.max_age_to_prove_empty = self.lookup_ttl = 1.0
        #: Items that may be elsewhere by now.
        self.doubted: set[str] = set()
        #: Items that it no longer knows, as after a change of a directory above them.
        self.forgotten: set[str] = set()
        #: Called before the item with this id is looked up.
        self.before_peek: dict[str, Callable[[], object]] = {}
        #: Called once a directory was listed, before what it showed is used.
        self.after_listing: Callable[[], object] = lambda: None

    def record_own_change(self, item: Item, old_path: str = "", *, is_reported: bool = False) -> None:
        self.updates.append(f"publish {item.path}" + f" from {old_path}" * bool(old_path))

    def record_deleted(self, item: Item) -> None:
        self.updates.append(f"forget {item.id}" + f" at {item.path}" * item.is_dir)

    def invalidate(self, path: str) -> None:
        self.updates.append(f"touch {path}")

    def note_names_changed(self, path: str, now: int) -> None:
        self.updates.append(f"names of {path}")

    def peek(self, path: str) -> Item | None:
        return next((item for item in self.subtree(path) if item.path == path), None)

    def refresh(self) -> None:
        self.refreshed += 1
        self.listed = time.monotonic()

    def has_listing_since(self, moment: float) -> bool:
        return self.listed > moment

    def last_seen_at(self, item: Item) -> float:
        return -math.inf if item.id in self.doubted else time.monotonic()

    def peek_by_id(self, item_id: str) -> Item | None:
        self.before_peek.pop(item_id, lambda: None)()
        return None if item_id in self.forgotten else self._client.items.get(item_id)

    def lookup(self, path: str, max_age: float | None = None) -> Item | None:
        assert max_age is not None, "what a save depends on is fresh"
        return next(iter(self._client.find(path)), None)

    def subtree(self, path: str) -> list[Item]:
        found = [item for item in self._client.items.values() if names.is_at_or_below(item.path, path)]
        self.after_listing()
        return found

    def children(self, path: str, max_age: float | None = None) -> dict[str, Item]:
        assert max_age is not None, "what a save depends on is fresh"
        inside = [item for item in self.subtree(path) if names.parent(item.path) == path]
        shown = {names.basename(item.path): item for item in inside}
        return {name: item for name, item in shown.items() if not names.parse_hidden_name(name)}

    def hidden_items(self) -> list[Item]:
        return [item for item in self._client.items.values() if ".jobfs-" in item.path]


class FakeContent:
    """The content cache. `cached`: hashes of the local bytes, by item.

    `evictable`: how often the cache can free bytes for the state directory; `freed`: how many it was asked for.
    """

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self.cached: set[str] = set()
        self.adopted: list[tuple[str, bytes]] = []
        self.evictable, self.freed = 0, list[int]()
        self.readers = ActiveDownloads([])
        #: Called to bring the cache under its limit.
        self.evict_to_limit: Callable[[], object] = lambda: None

    @contextmanager
    def exclude_verification(self, item: Item) -> Iterator[ActiveDownloads]:
        yield self.readers

    def is_cached(self, item: Item) -> bool:
        return item.id in self.cached

    @contextmanager
    def open(self, item: Item) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(
            fetch_file=lambda: self.cached.add(item.id),
            compute_sha256=lambda: sha(self._client.contents[item.id]) if item.id in self.cached else None,
        )

    def create_partial_from(self, source: Path) -> bytes:
        return source.read_bytes()

    def drop_replaced(self, version: Version) -> None:
        self.cached.discard(version.item_id)

    def remember_size(self, item: Item, size: int) -> None:
        """Nobody here asks for a size."""

    def evict_on_disk_of(self, directory: Path, size: int) -> bool:
        self.freed.append(size)
        return len(self.freed) <= self.evictable

    def adopt_file(self, item: Item, file: bytes) -> None:
        self.adopted.append((item.id, file))


class OpenVersion(ContentHandle):
    """The content behind a handle: notes that it was fetched, or fails to be."""

    __slots__ = ("error", "fetched")

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.fetched = error, 0

    def fetch_file(self) -> Path:
        if self.error is not None:
            raise self.error
        self.fetched += 1
        return Path("/dev/null")


class World:
    """Write-back over a state, and the doubles around it; nothing runs by itself."""

    def __init__(self, directory: Path, client: FakeClient | None = None) -> None:
        self.client = client or FakeClient()
        self.namespace = FakeNamespace(self.client)
        self.content = FakeContent(self.client)
        self.write_back = WriteBack(
            cast(Client, self.client), cast(Namespace, self.namespace), cast(ContentStore, self.content), State(directory),
            MOUNT, Settings(write_back_delay=60.0, timeout=10.0, request_lifetime=30.0, cache_size=1 << 20),
            KnownServer(directory, self.client.base_url), Intervals(sync=0.02, tidy=0.02, trim=0.02),
        )  # fmt: skip
        self.state, self.context = self.write_back.state, self.write_back.context
        self.queue = self.write_back.queue
        self.cleanup, self.items = self.write_back.cleanup, self.write_back.items
        self.replacer, self.renamer = self.write_back.replacer, self.write_back.renamer
        self.uploader, self._ended = self.write_back.uploader, False

    def end(self) -> None:
        """End the mount, with its threads."""
        self._ended = True
        self.write_back.close()

    def close(self) -> None:
        if not self._ended:
            self.context.stop_threads()
            self.state.close()

    def changes(self) -> list[str]:
        """The requests that were to change something."""
        return [step for step in self.client.done if not step.startswith("download")]

    def opened(self, item: Item, error: Exception | None = None) -> OpenVersion:
        """A program has this version open, and not all of its bytes are on this machine."""
        content = OpenVersion(error)
        file = self.state.get_or_add_file(item)
        handle = Handle(file, item, os.O_RDONLY)
        handle.content = content
        file.handles.append(handle)
        self.state.opened[file.ino] = file
        return content

    def closed(self, path: str, content: bytes, item: Item | None = None, of: File | None = None) -> File:
        """A file that was written and closed here; `item`: the version that was opened, `of`: the File, if there is one."""
        state = self.state
        file = of or (state.get_or_add_file(item) if item else state.new_local_file(Kind.FILE, path))
        self.state.apply_in_memory(file, base=Base.from_item(item) if item is not None else Base(), item=item)
        local = self.written(file, content)
        self.write_back.record_closed(file)
        local.release()
        return file

    def written(self, file: File, content: bytes) -> LocalGeneration:
        """New bytes of a file, which a program has not closed."""
        local = self.state.bytes.create(file.ino, self.state.journal.next_number())
        local.write(content, 0)
        self.state.apply_in_memory(file, local=local)
        return local

    def save(self, path: str, content: bytes, item: Item | None = None) -> File:
        """The same, and on the server when it returns; nothing is cleaned up."""
        file = self.closed(path, content, item)
        self.write_back.wait_until_uploaded(file)
        return file

    def scheduled(self, file: File) -> Change:
        """The Change that sends a file; it waits for its delay."""
        change = self.queue.schedule(file)
        assert change is not None
        return change

    def plan(self, stage: Stage, target: str = "file", verb: Verb = Verb.PUT, /, **values: Any) -> Change:
        """A Change in the journal that has got to this stage."""
        change = self.state.plan_change(verb, target, stage=Stage.STAGED, **values)
        self.state.write(edit(change, stage=stage))
        return change

    def rows(self, kind: type[R]) -> list[R]:
        """What the journal has."""
        return self.state.journal.load_records(kind)

    def clean_up(self) -> None:
        """What the queue would do with what was placed or cancelled."""
        self.state.changes.ready.clear()
        for change in list(self.state.changes.values()):
            if change.stage in (Stage.PLACED, Stage.CANCELLED):
                self.write_back.cleanup.clean_up(change)


def opened(file: File, *, writable: bool = True) -> File:
    file.handles.append(Handle(file, None, os.O_RDWR if writable else os.O_RDONLY))
    if file.local is not None:
        file.local.acquire()
    return file


def scratch(world: World, path: str, content: bytes = NEW) -> File:
    file = world.closed(path, content)
    world.state.write(edit(file, never_sent=True))
    return file


def begun(world: World, stage: Stage = Stage.STAGED) -> tuple[File, Change]:
    """A save over `o` that has set `o` aside."""
    item = world.client.put("o", hidden("file"), OLD)
    world.client.put("n", hidden("file", names.Role.STAGED), NEW)
    file = world.closed("file", NEW)
    change = world.scheduled(file)
    change.started = True
    asides, base = [Aside("o", item.path, moved=True, size=3)], Base.from_item(item)
    sent = {"tid": TID, "staged_id": "n", "sha256": sha(NEW), "size": 3}
    world.state.write(edit(change, stage=stage, base=base, asides=asides, **sent))
    return file, change

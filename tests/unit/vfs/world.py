"""The modules of the Vfs over the real state, namespace and cache, and a server in memory: no network, no mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tests.support.clocks import Clock
from tests.unit.save.world import FakeClient

from jobfs.api.client import Client, Download
from jobfs.api.models import Instance, Page
from jobfs.content import ContentStore
from jobfs.errors import NotFoundError, UnavailableError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save import WriteBack
from jobfs.settings import Settings
from jobfs.state import Change, File, directory
from jobfs.state.records import Verb
from jobfs.state.server import KnownServer
from jobfs.state.tables import State
from jobfs.vfs import Vfs
from jobfs.vfs.attributes import AttributeOperations
from jobfs.vfs.drain import Drain
from jobfs.vfs.files import FileOperations
from jobfs.vfs.handles import Caller, PageCacheTracker
from jobfs.vfs.lookup import LookupOperations
from jobfs.vfs.report import Report
from jobfs.vfs.tree import NameOperations
from jobfs.vfs.view import View

TTL, STALE = 60.0, 120.0
CALLER = Caller(1234, 4321, os.getpid())
READ_ONLY = {"permission": "readOnly"}


class ServerInMemory(FakeClient):
    """The workspace of save/world.py, which can be listed too, and fetched in ranges.

    `done` has all requests, those too that change nothing. `is_away`: none of the latter is answered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.health.answering = True
        self.job: dict[str, Any] = {}
        self.connections = SimpleNamespace(has_waiter_before=lambda *_: False)

    def _look(self, request: str) -> None:
        self.done.append(request)
        self.health.requests += 1
        if self.is_away:
            raise UnavailableError("no route to the server")

    def probe_recovery(self) -> bool:
        return not self.is_away

    def abort_requests(self) -> None:
        """No request is in flight when a test ends."""

    def get_instance(self) -> Instance:
        self._look("job")
        self._asked("job")
        return Instance.model_validate({"data": {"workspaceInstance": {"expertJob": self.job}}})

    def list_page(self, take: int, skip: int) -> Page:
        self._look("list")
        self._asked("list")
        items = [*self.items.values()]
        return Page(items[skip : skip + take], len(items), take)

    def require_workspace(self) -> None:
        self._look("workspace")

    def find(self, path: str) -> list[Item]:
        self._look(f"find {path}")
        return super().find(path)

    def get(self, item_id: str, *, connection: object = None) -> Item:
        self._look(f"get {item_id}")
        return super().get(item_id)

    @contextmanager
    def download(
        self, item_id: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> Iterator[Download]:
        self._look(f"download {item_id}")
        self._asked("download")
        if item_id not in self.contents:
            raise NotFoundError("gone")
        body = self.contents[item_id][start:end]
        yield Download(start, len(body), len(self.contents[item_id]), lambda: iter([body]))


class World:
    """What a mount is made of, each part made when a test asks for it; nothing is sent by itself.

    `after`: an earlier mount of the same job on this machine, which is closed first. `vfs_type` makes the Vfs.
    """

    def __init__(
        self, home: Path, after: World | None = None, vfs_type: Callable[..., Vfs] = Vfs, **options: Any
    ) -> None:
        if after is not None:
            after.close()
            home = after.home
        given: dict[str, Any] = {"ttl": TTL, "write_back_delay": 60.0, "timeout": 5.0, **options}
        self.settings = Settings(state_dir=home / "state", cache_dir=home / "cache", uid=1, gid=2, **given)
        self.home: Path = home
        self._vfs_type = vfs_type
        self.server: ServerInMemory = ServerInMemory() if after is None else after.server
        self.clock, self._counted, self._is_closed = Clock(), 0, False
        self.slot = directory.acquire_state_directory(
            home / "state", "j" * 24, str(home / "mnt"), self.server.base_url
        )
        self._client = cast(Client, self.server)
        self._known = KnownServer(home / "state", self.server.base_url)
        cache = home / "cache" / self.slot.mount_id
        self.content = ContentStore(self._client, cache, owner=self.slot.path, limit=1 << 24)
        self.namespace = Namespace(
            self._client,
            ttl=TTL,
            kernel_timeout=1.0,
            stale_if_error=STALE,
            clock=self.clock,
            is_decided_here=lambda path: self.state.index.is_decided_here(path),
        )

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if "files" in self.__dict__:
            self.files.close_all()
        if "write_back" in self.__dict__:
            self.write_back.close()
        if "vfs" in self.__dict__:
            self.vfs.stop()
        if "state" in self.__dict__ and not {"write_back", "vfs"} & self.__dict__.keys():
            self.state.close()
        self.content.close()
        self.slot.close()

    @cached_property
    def vfs(self) -> Vfs:
        """All parts in one; a test that asks for it asks for none of the parts below."""
        return self._vfs_type(
            self.settings, self.slot, self._client, self.content, self.namespace, self.state, self._known
        )

    @cached_property
    def write_back(self) -> WriteBack:
        return WriteBack(
            self._client, self.namespace, self.content, self.state, self.slot.mount_id, self.settings, self._known
        )  # fmt: skip

    @cached_property
    def state(self) -> State:
        return State(self.slot.path, self.settings.keep_saves)

    @cached_property
    def view(self) -> View:
        return View(self.write_back, self.settings)

    @cached_property
    def pages(self) -> PageCacheTracker:
        return PageCacheTracker()

    @cached_property
    def report(self) -> Report:
        return Report(self.view, self.slot)

    @cached_property
    def lookup(self) -> LookupOperations:
        return LookupOperations(self.view, self.pages, self.report)

    @cached_property
    def files(self) -> FileOperations:
        return FileOperations(self.view, self.pages, self.report)

    @cached_property
    def tree(self) -> NameOperations:
        return NameOperations(self.view, self.pages)

    @cached_property
    def attributes(self) -> AttributeOperations:
        return AttributeOperations(self.view)

    @cached_property
    def drain(self) -> Drain:
        return Drain(self.view)

    # -- what the job does

    def put(self, path: str, content: bytes | None = b"", **values: Any) -> Item:
        """An item at `path`, or (None) a directory; its id is `id of <path>`."""
        return self.server.put(f"id of {path}", path, content, **values)

    def seed(self, contents: Mapping[str, bytes | None]) -> None:
        """Items with these paths and contents, or (None) directories; the namespace knows what the server has."""
        for path, content in contents.items():
            self.put(path, content)
        self.list_again()

    def omit_size(self, path: str) -> Item:
        """The server gives no size for the item at `path`."""
        (item,) = (each for each in self.server.items.values() if each.path == path)
        self.server.items[item.id] = item = replace(item, size=None)
        return item

    def list_again(self) -> None:
        """The namespace knows what the server has; the requests for that do not count."""
        self.namespace.refresh()
        self.requests()

    def go_away(self) -> None:
        """From now on no request is answered."""
        self.server.is_away = True
        raise UnavailableError("no route to the server")

    def requests(self) -> list[str]:
        """The requests since the last call of this."""
        old, self._counted = self._counted, len(self.server.done)
        return self.server.done[old:]

    def expire(self) -> None:
        """What is known becomes older than the TTL."""
        self.clock.advance(TTL + 1)

    # -- what programs do

    def write(self, path: str, content: bytes, *, fsync: bool = False) -> File:
        """Create and write a file, or write over the beginning of one, and close it."""
        found = self.view.find(path)
        handle = self.files.create(path, 0o644, os.O_RDWR, CALLER) if found is None else self.open(path)
        self.files.write(handle.fh, content, 0)
        if fsync:
            self.files.fsync(handle.fh)
        file = self.files.get_handle(handle.fh).file
        self.files.flush(handle.fh)
        self.files.release(handle.fh)
        return file

    def drain_file(self, path: str) -> None:
        """Wait until the server has the file at `path`."""
        if (file := self.state.index.file_at(path)) is not None:
            self.write_back.wait_until_uploaded(file)

    def open(self, path: str, flags: int = os.O_RDWR, **more: Any) -> Any:
        return self.files.open(path, flags, **more)

    def override(self, shows: Mapping[str, Item | None]) -> Change:
        """A Change, which a program waits for, shows these items, or nothing, at these paths."""
        return self.state.plan_change(Verb.REMOVE, "the target of a Change", shows=dict(shows))

    def mode(self, path: str) -> int:
        return stat.S_IMODE(self.lookup.getattr(path).mode)

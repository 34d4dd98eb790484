"""The eight endpoints: which operation a URL means, and what each operation does."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from .bodies import read_create, read_update
from .exchange import Answer, Exchange, FileAnswer
from .records import Invalid, Missing, StoredItem
from .store import EmulatorStore
from .texts import parse_number, parse_range
from .wire import envelope_json, instance_json, page_json

_PREFIX = "/api/studio/v1/expert_jobs/"

_TEXT = (b"content-type", b"text/plain")

#: The number of items in a partial instance.
_PARTIAL = 10


class Route(NamedTuple):
    """The meaning of a URL and method; `allow` names the methods of the URL if this one is not among them."""

    operation: str
    job: str = ""
    item: str = ""
    collection: bool = False
    allow: str = ""


def resolve_route(method: str, path: str) -> Route | None:
    """Return the route of a URL path, with or without a trailing slash; None if the API has no such URL.

    `path` is still encoded: each id is decoded after the path is split, so that an encoded slash is part of an id.
    """
    if not path.startswith(_PREFIX):
        return None
    parts = path[len(_PREFIX) :].removesuffix("/").split("/")
    if len(parts) < 2 or parts[1] != "workspace_instance":
        return None
    match [parts[0], *parts[2:]]:
        case [job]:
            return _route(method, {"GET": "instance"}, job, collection=True)
        case [job, "items"]:
            return _route(method, {"GET": "list", "POST": "create"}, job, collection=True)
        # As in a router by method, POST and DELETE are about an item with the id "find", which is malformed.
        case [job, "items", "find"] if method not in ("POST", "DELETE"):
            return _route(method, {"GET": "find"}, job)
        case [job, "items", item]:
            return _route(method, {"GET": "get", "POST": "update", "DELETE": "delete"}, job, item)
        case [job, "items", item, "download"]:
            return _route(method, {"GET": "download"}, job, item)
    return None


def _route(
    method: str, operations: dict[str, str], job: str, item: str = "", collection: bool = False
) -> Route:
    operation = operations.get(method, "")
    allow = "" if operation else ", ".join(operations)
    return Route(operation, unquote(job), unquote(item), collection, allow)


class Operations:
    """The handlers, one per endpoint. They raise Refused, Missing, Invalid, Unsupported or InjectedFault."""

    def __init__(self, store: EmulatorStore) -> None:
        self._store = store
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self.table: dict[str, Callable[[Exchange], Awaitable[Answer]]] = {
            "instance": self.instance,
            "list": self.list,
            "find": self.find,
            "get": self.get,
            "create": self.create,
            "update": self.update,
            "delete": self.delete,
            "download": self.download,
        }

    async def instance(self, exchange: Exchange) -> Answer:
        """GET workspace_instance/."""
        workspace = exchange.workspace
        await exchange.apply_path_fault("")
        items, count = workspace.page(2**62, 0)
        shown = exchange.behaviour.instance_items
        items = [] if shown == "empty" else items[:_PARTIAL] if shown == "partial" else items
        rendered = [workspace.render(item) for item in items]
        return Answer(body=instance_json(workspace.job, rendered, count, exchange.behaviour))

    async def list(self, exchange: Exchange) -> Answer:
        """GET items/: take 1..100, default 100; skip from 0, default 0."""
        workspace = exchange.workspace
        query = exchange.request.query_params
        take = min(
            _parse_number(query.get("take", "100"), "take", 1, 100), float(exchange.behaviour.page_cap)
        )
        skip = _parse_number(query.get("skip", "0"), "skip", 0, math.inf)
        await exchange.apply_path_fault("")
        items, total = workspace.page(int(take), int(skip))
        meta = {"total": total, "take": _format_number(take), "skip": _format_number(skip)}
        return Answer(body=page_json(map(workspace.render, items), meta))

    async def find(self, exchange: Exchange) -> Answer:
        """GET items/find: a path of at least one character."""
        path = exchange.request.query_params.get("path")
        if not path:
            raise Invalid("query.path", "required" if path is None else "at least 1 character")
        await exchange.apply_path_fault(path.removeprefix("/"))
        workspace = exchange.workspace
        own = exchange.behaviour.input_spelling == "own"
        foreign = own and path.startswith("/") != (exchange.behaviour.path_style == "slash")
        found = [] if foreign else workspace.find(path)
        if not found and exchange.behaviour.find_missing == 404:
            raise Missing("Workspace item not found")
        return Answer(body=page_json(map(workspace.render, found)))

    async def get(self, exchange: Exchange) -> Answer:
        """GET items/{id}."""
        workspace = exchange.workspace
        await exchange.apply_path_fault(workspace.path_of(exchange.item_id))
        return _item_answer(exchange, workspace.get(exchange.item_id))

    async def create(self, exchange: Exchange) -> Answer:
        """POST items/."""
        workspace = exchange.workspace
        draft = await read_create(exchange, self._store)
        blob = draft.blob
        try:
            await exchange.apply_path_fault(draft.path.removeprefix("/"))
            name, size = ("", 0) if blob is None else (blob.name, blob.size)
            item = workspace.create(draft.kind, draft.path, draft.permission, name, size)
        except BaseException:
            if blob is not None:
                blob.discard()
            raise
        exchange.entry.item = item.id
        return _item_answer(exchange, item)

    async def update(self, exchange: Exchange) -> Answer:
        """POST items/{id}."""
        workspace = exchange.workspace
        path, permission, lifecycle = await read_update(exchange)
        current = workspace.path_of(exchange.item_id)
        await exchange.apply_path_fault(current if path is None else path.removeprefix("/"))
        if exchange.rule is not None and exchange.rule.kind == "undone":
            return _item_answer(exchange, workspace.get(exchange.item_id))
        changes = exchange.item_id, path, permission, lifecycle
        if path is None or not exchange.behaviour.move_work:
            return _item_answer(exchange, workspace.update(*changes))
        async with self._move_lock() if exchange.behaviour.move_locked else contextlib.nullcontext():
            workspace.begin_update(*changes)
            await asyncio.sleep(exchange.behaviour.move_work / 1000)
            return _item_answer(exchange, workspace.carry_out_update(*changes))

    def _move_lock(self) -> asyncio.Lock:
        """Return the lock that moves hold. Each event loop has its own: a restarted server has another loop."""
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def delete(self, exchange: Exchange) -> Answer:
        """DELETE items/{id}."""
        workspace = exchange.workspace
        await exchange.apply_path_fault(workspace.path_of(exchange.item_id))
        item = workspace.delete(exchange.item_id)
        bodies = {"null": b"null", "empty": b"{}", "nothing": b""}
        body = bodies.get(exchange.behaviour.delete_body)
        return _item_answer(exchange, item) if body is None else Answer(body=body)

    async def download(self, exchange: Exchange) -> Answer:
        """GET items/{id}/download: text/plain for any bytes; with `ranges`, 206 or 416 to a Range."""
        workspace = exchange.workspace
        await exchange.apply_path_fault(workspace.path_of(exchange.item_id))
        item, fd = workspace.open_content(exchange.item_id)
        headers = [_TEXT]
        if not exchange.behaviour.ranges:
            return FileAnswer(200, headers, fd, 0, item.size)
        headers.append((b"accept-ranges", b"bytes"))
        wanted = parse_range(exchange.request.headers.get("range"), item.size)
        if wanted is None:
            return FileAnswer(200, headers, fd, 0, item.size)
        start, end = wanted
        if end == start:
            headers.remove(_TEXT)
        shown = f"{start}-{end - 1}" if end > start else "*"
        headers.append((b"content-range", f"bytes {shown}/{item.size}".encode()))
        return FileAnswer(206 if end > start else 416, headers, fd, start, end)


def _item_answer(exchange: Exchange, item: StoredItem) -> Answer:
    return Answer(body=envelope_json(exchange.workspace.render(item), exchange.behaviour.envelope))


def _format_number(value: float) -> float:
    """Return a number that JSON formats as JavaScript does: 5, 5.5, 1e+21."""
    return int(value) if value.is_integer() and value < 1e21 else value


def _parse_number(text: str, name: str, low: float, high: float) -> float:
    """Parse a number in a query as JavaScript does. Raises Invalid if it is none or out of range."""
    value = parse_number(text)
    if not math.isfinite(value):
        raise Invalid(f"query.{name}", "expected number")
    if not low <= value <= high:
        raise Invalid(f"query.{name}", f"out of range: {value:g}")
    return value

"""The client of the Workspace Instance API: one typed method for each endpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from jobfs import names
from jobfs.api.address import check_base_url, check_item_id, check_job_id
from jobfs.api.bodies import MOST_INSTANCE, json_body
from jobfs.api.create import CreateEncoding, Form, Forms
from jobfs.api.download import IDENTITY, RANGE_UNSATISFIABLE, Download, open_download, range_header
from jobfs.api.failures import Call, MismatchError
from jobfs.api.health import Health, Restraint
from jobfs.api.key import KeySource
from jobfs.api.known import Known
from jobfs.api.line import LARGE, Line
from jobfs.api.models import KINDS, Instance, Page, parse_instance, parse_item, parse_items, parse_page
from jobfs.api.wire import Send, Wire
from jobfs.errors import (
    ApiError,
    BadRequestError,
    InvalidRequestError,
    NoDirectoryError,
    PathExistsError,
    UnavailableError,
)
from jobfs.nodes import Item, Kind, Lifecycle, Permission

_Parsed = TypeVar("_Parsed")

#: Characters that are not themselves in patterns of paths.
_SPECIAL = re.compile(r"[][{}\\]")
#: Statuses with a reason that may be "exists" or "no directory".
_BAD_REQUEST = frozenset({400, 409})
#: Statuses that may be about how a path is written.
_ABOUT_A_PATH = frozenset({400, 422})
#: Refusals that are not about how the path is written.
_FOUND = (PathExistsError, NoDirectoryError)


class Client:
    """Talks to one job's workspace instance; every method may be called by many threads at once.

    Reads are retried within `timeout` seconds without progress. A changing request is sent again only where
    nothing can have happened; otherwise it raises AnswerLostError at once (semantics.md section 5). All
    methods raise ApiError. `known`: what an earlier look at this server has shown. `transport` replaces the network,
    for tests and to see what passes.
    """

    def __init__(
        self,
        base_url: str,
        job_id: str,
        key: KeySource,
        *,
        timeout: float = 30.0,
        max_connections: int = 16,
        create_encoding: CreateEncoding = "auto",
        known: Known | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.job_id = check_job_id(job_id)
        self.base_url = check_base_url(base_url)
        self.max_connections = max_connections
        self._root = f"/api/studio/v1/expert_jobs/{job_id}/workspace_instance/"
        self._wire = Wire(
            self.base_url, key, timeout=timeout, max_connections=max_connections, transport=transport
        )
        self._forms = Forms(create_encoding, known.forms if known else None)
        self._slash: str | None = None  # what paths begin with on this server; None until an item was seen

    @property
    def health(self) -> Health:
        """How the server has been answering."""
        return self._wire.monitor.health()

    @property
    def tls(self) -> str | None:
        """The version of TLS that was agreed on, as "TLSv1.3"; None without TLS, or before the first connection."""
        return self._wire.tls

    @property
    def silent(self) -> float:
        """Seconds since the server gave a sign of itself, of those in which it was asked something."""
        return self._wire.monitor.silent()

    @property
    def line(self) -> Line:
        """Who uses the connections, and who waits for one."""
        return self._wire.line

    @property
    def restraint(self) -> Restraint:
        """Whether the background leaves the server alone."""
        return self._wire.restraint

    @property
    def server_time_offset(self) -> float:
        """Seconds that the server's clock is ahead of ours; 0.0 until an answer came."""
        return self._wire.monitor.offset()

    def instance(self, *, timeout: float | None = None) -> Instance:
        """The workspace instance with its job (GET workspace_instance/)."""
        call = Call("get workspace instance", "GET", self._root)
        body = self._wire.request(call, Send(limit=MOST_INSTANCE), timeout).content
        return self._parse(call, lambda: parse_instance(body, self.job_id))

    def list_page(self, take: int, skip: int, *, timeout: float | None = None) -> Page:
        """One page of the flat list of all items (GET items/); `take` is 1 to 100."""
        call = Call("list items", "GET", f"{self._root}items/?take={take}&skip={skip}", f"skip={skip}")
        body = self._wire.request(call, timeout=timeout).content
        page, wire = self._parse(call, lambda: parse_page(body, take, skip))
        if wire:
            self._learn(wire[0])
        return page

    def find(self, path: str, *, timeout: float | None = None) -> list[Item]:
        """Every item at exactly `path`, which may be more than one (GET items/find)."""
        if not path:
            return []
        asked = self._slash or ""
        items = self._find(asked, path, timeout)
        if not items and self._slash != asked:
            # No item had shown this server's style yet, and "not there" must not be a matter of style.
            items = self._find("/", path, timeout)
        return items or self._find_by_pattern(path, timeout)

    def _find_by_pattern(self, path: str, timeout: float | None) -> list[Item]:
        """Ask again for a name that means another one where find takes patterns: `[id].txt` does not match itself there."""
        pattern = _SPECIAL.sub("?", path)
        return [] if pattern == path else self._find(self._slash or "", path, timeout, pattern)

    def get(self, item_id: str, *, timeout: float | None = None) -> Item:
        """The item with this id (GET items/{id}); raises NotFoundError."""
        call = Call("get item", "GET", self._item_target(item_id), item_id)
        return self._item(call, Send(), timeout)

    def create_file(
        self,
        path: str,
        source: Path,
        size: int,
        permission: Permission,
        moving: Callable[[float], None] = lambda part: None,
    ) -> Item:
        """Create a file from the first `size` bytes of `source`, streamed (POST items/).

        `moving` gets the part that is on its way, from 0 to 1, of each attempt anew.

        Raises FsError if `source` can't be read, AnswerLostError once it may have been sent.
        """
        return self._create(Kind.FILE, path, permission, (source, size), moving)

    def create_directory(self, path: str, permission: Permission) -> Item:
        """Create a directory (POST items/)."""
        return self._create(Kind.DIRECTORY, path, permission, None)

    def update(
        self,
        item_id: str,
        *,
        path: str | None = None,
        permission: Permission | None = None,
        lifecycle: Lifecycle | None = None,
        once: bool = False,
    ) -> Item:
        """Change what is given and leave the rest (POST items/{id}); a new path moves what lies under it.

        `once`: as for `delete` (save-protocol.md R8).
        """
        given = {"lifecycle": lifecycle, "permission": permission, "path": path}
        fields = {name: str(value) for name, value in given.items() if value is not None}
        subject = item_id if path is None else f"{item_id} to {path}"
        call = Call("update item", "POST", self._item_target(item_id), subject, changing=True)
        if not fields:
            raise BadRequestError(f"{call}: at least one field is required", endpoint=call.endpoint)
        if path is None:
            return self._item(call, Send(json_body(fields)), once=once)
        return self._understood(
            lambda: self._styled(
                path, lambda styled: self._item(call, Send(json_body({**fields, "path": styled})), once=once)
            ),
            path,
            item_id,
        )

    def delete(self, item_id: str, *, once: bool = False) -> None:
        """Delete an item, a directory with all in it (DELETE items/{id}); the answer's body is ignored.

        `once`: raises UnavailableError where it would have to wait before it tries again (save-protocol.md R7).
        """
        call = Call("delete item", "DELETE", self._item_target(item_id), item_id, changing=True)
        self._wire.request(call, once=once)

    def download(
        self, item_id: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> Download:
        """The bytes of a file from `start` to before `end` (GET items/{id}/download).

        `size`: bytes of the whole file, if they are known: small bodies go before large ones. The server may send more than
        was asked for: look at `Download.start`. Only the request is retried, not the body; each chunk may take `timeout`
        seconds.
        """
        call = Call("download", "GET", self._item_target(item_id) + "/download", item_id)
        if end is not None and end <= start:
            return Download(call, None, self._wire.explain, start=start, length=0, total=None)
        wanted = range_header(start, end)
        headers = [IDENTITY] if wanted is None else [IDENTITY, wanted]
        statuses = frozenset() if wanted is None else frozenset({RANGE_UNSATISFIABLE})
        large = size is None or (size if end is None else min(end, size)) - start > LARGE
        send = Send(None, headers, streamed=True, statuses=statuses, large=large)
        response = self._wire.request(call, send)
        try:
            return open_download(call, response, start, self._wire.explain)
        except MismatchError as exc:
            response.close()
            raise self._wire.explain(call, exc) from None

    def break_off(self) -> None:
        """End every request under way, as if its connection had broken; nothing is asked any more."""
        self._wire.break_off()

    def close(self) -> None:
        """Close every connection; what waits for a retry ends at once."""
        self._wire.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.base_url!r}, {self.job_id!r})"

    def _create(
        self,
        kind: Kind,
        path: str,
        permission: Permission,
        file: tuple[Path, int] | None,
        moving: Callable[[float], None] = lambda part: None,
    ) -> Item:
        call = Call(f"create {kind}", "POST", self._root + "items/", path, changing=True)

        def attempt(styled: str, form: Form) -> Item:
            body = form.body(kind, styled, permission, file)
            body.part = moving
            return self._item(call, Send(body))

        return self._understood(
            lambda: self._styled(path, lambda styled: self._forms.create(kind, partial(attempt, styled))),
            path,
        )

    def _understood(self, send: Callable[[], Item], path: str, item_id: str = "") -> Item:
        """Send what puts an item at `path`; what a 400 in words of the server's own means is found out by a look.

        Saves go on from "exists" and "no directory" (section 5), and the reference does not say how a reason is worded.
        """
        try:
            return send()
        except BadRequestError as error:
            if type(error) is not BadRequestError or error.status not in _BAD_REQUEST:
                raise
            kind = self._meaning(path, item_id)
            if kind is None:
                raise
            raise kind(str(error), endpoint=error.endpoint, status=error.status) from None

    def _meaning(self, path: str, item_id: str) -> type[BadRequestError] | None:
        above = names.parent(path)
        try:
            there = self.find(path)
            if any(item.id != item_id for item in there):
                return PathExistsError
            if not there and above and not any(item.is_dir for item in self.find(above)):
                return NoDirectoryError
        except UnavailableError:
            raise
        except ApiError:
            pass
        return None

    def _find(self, slash: str, path: str, timeout: float | None, pattern: str = "") -> list[Item]:
        argument = quote(slash + (pattern or path), safe="", errors="replace")
        call = Call("find item", "GET", f"{self._root}items/find?path={argument}", path)
        body = self._wire.request(call, timeout=timeout).content
        items, wire = self._parse(call, lambda: parse_items(body))
        if wire:
            self._learn(wire[0])
        return [item for item in items if item.path == path]

    def _item(self, call: Call, send: Send, timeout: float | None = None, *, once: bool = False) -> Item:
        body = self._wire.request(call, send, timeout, once=once).content
        item, wire = self._parse(call, lambda: parse_item(body))
        self._learn(wire)
        return item

    def _parse(self, call: Call, parse: Callable[[], _Parsed]) -> _Parsed:
        try:
            return parse()
        except MismatchError as exc:
            raise self._wire.explain(call, exc) from None

    def _learn(self, wire: dict[str, Any]) -> None:
        """Note the server's own style: its paths' leading slash, its spelling of types."""
        path, name = wire.get("path"), wire.get("type")
        if isinstance(path, str) and path:
            self._slash = "/" if path.startswith("/") else ""
        if isinstance(name, str) and name in KINDS:
            self._forms.saw_type(name)

    def _styled(self, path: str, send: Callable[[str], Item]) -> Item:
        """Send a path in the style of the server's own items; before one was seen, both styles in turn."""
        slash = self._slash
        try:
            return send((slash or "") + path)
        except (BadRequestError, InvalidRequestError) as error:
            if slash is not None or error.status not in _ABOUT_A_PATH or isinstance(error, _FOUND):
                raise
            first = error
        try:
            return send("/" + path)
        except (BadRequestError, InvalidRequestError) as error:
            # An answer to the other style is the better one if it is about what stands there.
            raise error if isinstance(error, _FOUND) else first from None

    def _item_target(self, item_id: str) -> str:
        return f"{self._root}items/{check_item_id(item_id)}"

"""The client of the Workspace Instance API: one typed method for each endpoint."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar
from urllib.parse import quote

import httpx

from jobfs import names
from jobfs.api.access import KeySource, check_job_id, normalize_base_url
from jobfs.api.bodies import (
    UNDERSTOOD,
    CreateEncoding,
    CreateForm,
    CreateFormSelector,
    decompress,
    is_compressed,
    make_json_body,
)
from jobfs.api.connection_queue import LARGE
from jobfs.api.deadline import Pace, call_blocking_hook, current_deadline
from jobfs.api.failures import MismatchError, RequestInfo
from jobfs.api.models import Instance, ItemStyle, Page, parse_instance, parse_item, parse_page
from jobfs.api.wire import PLAIN, HeldConnection, Payload, Reply, Wire
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    BadRequestError,
    ContractError,
    InvalidRequestError,
    JobfsError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.nodes import Item, Kind, Lifecycle, Permission

_Parsed = TypeVar("_Parsed")
_Parse = Callable[[bytes], tuple[_Parsed, ItemStyle | None]]

#: Seconds between two requests that check whether the server answers again, and that a caller waits for one of them.
_PROBE_EVERY, _PROBE_WAIT = 1.0, 0.5

#: The action of an update with a path, as messages name it.
_RENAMING = "renaming an item to"
#: Characters that are special in path patterns.
_SPECIAL = re.compile(r"[][{}()\\]|^[!#]")
#: Statuses whose reason may be "path already exists" or "directory not found".
_BAD_REQUEST = frozenset({400, 409})
#: Statuses that may refuse the spelling of a path.
_ABOUT_A_PATH = frozenset({400, 422})
_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE | re.ASCII)


class Download(NamedTuple):
    """One body that is being received.

    `start`: offset of its first byte, 0 if the server ignored the range. `length`: bytes of this body, and `total`: bytes of
    the whole file; None if the server did not say. `chunks` yields the bytes as they arrive; raises ApiError, and
    UnavailableError if the body breaks off or is too short.
    """

    start: int
    length: int | None
    total: int | None
    chunks: Callable[[], Iterator[bytes]]


class Client(AbstractContextManager["Client"]):
    """The client of one job's workspace instance. Any number of threads may call any method; every method raises ApiError.

    Reads are retried within `timeout` seconds without progress. A changing request is sent again only if the first one
    certainly had no effect; otherwise it raises AnswerLostError at once (vfs/semantics.md 5). `transport` replaces the
    network, for tests and for recording requests.
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
        transport: httpx.BaseTransport | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.job_id = check_job_id(job_id)
        self.base_url = normalize_base_url(base_url)
        self.max_connections = max_connections
        self._root = f"/api/studio/v1/expert_jobs/{job_id}/workspace_instance/"
        self._items = f"{self._root}items/"
        self._wire = Wire(
            self.base_url, key, timeout=timeout, max_connections=max_connections, transport=transport,
            pace=pace or Pace(),
        )  # fmt: skip
        self.health, self.connections = self._wire.health, self._wire.connections
        self._forms = CreateFormSelector(create_encoding)
        #: What paths begin with on this server, "" or "/"; None until an item was seen.
        self._slash: str | None = None
        #: When a thread last began to ask whether the server answers again, that thread, and whether it got an answer. The lock
        #: of `health` guards the first two.
        self._asked, self._asking, self._answered = -math.inf, threading.Thread(), False

    @property
    def working_forms(self) -> dict[Kind, CreateForm]:
        """Return, by kind, the form of create request that this server has accepted; a kind that was not created is absent."""
        return dict(self._forms.working)

    @property
    def server_time_offset(self) -> float:
        """Seconds that the server's clock is ahead of `steady_time()`; 0.0 before the first reply."""
        return self.health.clock_offset

    def probe_recovery(self) -> bool:
        """Return whether the server answers again after a silence.

        At most once a second, a thread asks on behalf of all callers, and waits for as long as a slow server takes. Callers
        wait for that thread during its first half second.
        """
        with self.health.lock:
            now = self.health.clock()
            if now - self._asked >= _PROBE_EVERY and (
                self.health.unreachable_reason or not self._asking.is_alive()
            ):
                self._asked, self._asking = now, threading.Thread(target=self._probe, daemon=True)
                self._asking.start()
            asking, until = self._asking, self._asked + _PROBE_WAIT
        call_blocking_hook()
        asking.join(max(0.0, until - now))
        return self._answered and not asking.is_alive()

    def _probe(self) -> None:
        self._answered = False
        with suppress(JobfsError):
            self.list_page(1, 0)
            self._answered = True

    def probe_and_require_reachable(self, subject: object) -> None:
        """Raise HeldBackError(ENETUNREACH) if the server is out of reach, after checking whether it is back.

        `subject` names in the message what needs the server.
        """
        if self.health.unreachable_reason is not None:
            self.probe_recovery()
            self.health.require_reachable(subject)

    def hold_connection(self, subject: object) -> AbstractContextManager[HeldConnection]:
        """Wait for a connection and hold it for the block; requests use it through `connection` (save/protocol.md R8).

        Such a request has one attempt: where another request would wait and try again, it raises UnavailableError.
        """
        self._require_reachable_if_foreground(subject)
        return self._wire.hold_connection(subject)

    def hold_two_connections(
        self, subject: object
    ) -> AbstractContextManager[tuple[HeldConnection, HeldConnection] | None]:
        """Wait for two connections and hold both for the block, for two requests at the same time (save/protocol.md R13).

        Yields None if the client has too few connections.
        """
        self._require_reachable_if_foreground(subject)
        return self._wire.hold_two_connections(subject)

    def get_instance(self, *, connection: HeldConnection | None = None) -> Instance:
        """Return the workspace instance with its job (GET workspace_instance/)."""
        call = RequestInfo("asking for the job", "GET", self._root)
        return self._request_parsed(call, parse_instance, connection=connection)

    def list_page(self, take: int, skip: int, *, connection: HeldConnection | None = None) -> Page:
        """Return one page of the flat list of all items (GET items/); `take` is 1 to 100."""
        call = RequestInfo("listing the workspace", "GET", f"{self._items}?take={take}&skip={skip}")
        return self._request_parsed(call, partial(parse_page, take=take, skip=skip), connection=connection)

    def require_workspace(self, *, connection: HeldConnection | None = None) -> None:
        """Raise UnavailableError if the server no longer has the job's workspace, which may be empty."""
        try:
            if not self.list_page(1, 0, connection=connection).total:
                self.get_instance(connection=connection)
        except NotFoundError as gone:
            raise UnavailableError(str(gone), status=gone.status) from None

    def find(self, path: str, *, connection: HeldConnection | None = None) -> list[Item]:
        """Return every item at exactly `path`, which may be more than one (GET items/find).

        A 404 means that there is none, unless the job is gone; then raises UnavailableError (vfs/semantics.md 5.17).
        """
        was_404 = False
        for spelling in self._spellings_to_find(path):
            try:
                if items := self._request_find(spelling, path, connection):
                    return items
            except NotFoundError:
                was_404 = True
        if was_404:
            self.require_workspace(connection=connection)
        return []

    def _spellings_to_find(self, path: str) -> Iterator[str]:
        """Yield how `path` must be spelled in a find, one spelling after another, until one has found an item."""
        if not path:
            return
        prefix = self._slash or ""
        yield prefix + path
        if self._slash != prefix:
            # The server's path style was unknown: ask in the other style before concluding that the path does not exist.
            yield "/" + path
        if _SPECIAL.search(path):
            # If find takes patterns, `[id].txt` does not match itself.
            yield (self._slash or "") + _SPECIAL.sub("?", path)

    def get(self, item_id: str, *, connection: HeldConnection | None = None) -> Item:
        """Return the item with this id (GET items/{id}); raises NotFoundError."""
        call = RequestInfo("looking at item", "GET", self._items + item_id, item_id)
        return self._request_parsed(call, parse_item, connection=connection)

    def create_file(
        self,
        path: str,
        source: Path,
        size: int,
        permission: Permission,
        on_piece: Callable[[int, bytes], None] = lambda offset, piece: None,
    ) -> Item:
        """Create a file from the first `size` bytes of `source`, streamed (POST items/).

        `on_piece` receives the offset of each piece that is sent and the piece; at the end, an empty piece. Each attempt begins
        again at offset 0. Raises FsError if `source` can't be read.
        """
        return self._create(Kind.FILE, path, permission, (source, size), on_piece)

    def create_directory(self, path: str, permission: Permission) -> Item:
        """Create a directory (POST items/)."""
        return self._create(Kind.DIRECTORY, path, permission)

    def update(
        self,
        item_id: str,
        *,
        path: str | None = None,
        permission: Permission | None = None,
        lifecycle: Lifecycle | None = None,
        kind: Kind | None = None,
        connection: HeldConnection | None = None,
        explain: bool = True,
    ) -> Item:
        """Change only the given fields (POST items/{id}); a new path also moves the items below the old path.

        `kind`: the item's kind, if known; the reply must show it. `explain`: after a refusal in unknown words, look whether
        the new path is taken or its directory is missing (api/wire.md, Update).
        """
        given = {"lifecycle": lifecycle, "permission": permission, "path": path}
        fields = {name: value for name, value in given.items() if value is not None}
        doing = ("changing item", item_id) if path is None else (_RENAMING, path)
        call = RequestInfo(doing[0], "POST", self._items + item_id, doing[1], is_change=True)

        def send(**styled: str) -> Item:
            body = make_json_body({name: str(value) for name, value in (fields | styled).items()})
            item = self._request_parsed(call, parse_item, Payload(body), connection=connection)
            return self._check_reply(call, item, {"id": item_id, "kind": kind, **fields})

        if path is None:
            return send()
        return self._send_in_path_style(path, lambda to: send(path=to), item_id, connection, explain=explain)

    def delete(self, item_id: str, *, connection: HeldConnection | None = None) -> None:
        """Delete an item, and everything in a directory (DELETE items/{id}); the reply's body is ignored."""
        call = RequestInfo("deleting item", "DELETE", self._items + item_id, item_id, is_change=True)
        self._send_request(call, connection=connection)

    @contextmanager
    def download(
        self, item_id: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> Iterator[Download]:
        """Yield the bytes of a file from `start` up to but not including `end` (GET items/{id}/download).

        The block holds the connection. `size`: bytes of the whole file, if known; small bodies go before large ones. The
        server may send more than was asked for: see `Download.start`. Only the request is retried, not the body; each chunk
        may take `timeout` seconds.
        """
        call = RequestInfo("downloading item", "GET", self._items + item_id + "/download", item_id)
        headers = [("Accept-Encoding", "identity")]  # some gateways compress anyway
        if start or end is not None:
            headers.append(("Range", f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"))
        stop = size if end is None else end
        send = Payload(None, headers, streamed=True, large=stop is None or stop - start > LARGE)
        try:
            answer = self._send_request(call, send)
        except NotFoundError as error:
            # The 404 may concern only the bytes. Callers forget an item that is not found, so look whether it is gone.
            self.get(item_id)
            raise ContractError(f"{error}, but the item exists", status=error.status) from None
        stream = answer.stream
        assert stream is not None
        try:
            start, length, total = _parse_extent(answer, start)

            def chunks() -> Iterator[bytes]:
                try:
                    yield from decompress(stream, answer.headers) if length != 0 else ()
                except (httpx.HTTPError, MismatchError) as exc:
                    raise self._wire.error_from_bad_reply(call, exc) from None

            yield Download(start, length, total, chunks)
        except MismatchError as exc:
            raise self._wire.error_from_bad_reply(call, exc) from None
        finally:
            stream.close()

    def abort_requests(self) -> None:
        """Abort every request in flight, as if its connection had broken, and refuse all later ones."""
        self.connections.abort()

    def close(self) -> None:
        """Close every connection; requests that wait for a retry fail at once."""
        self._wire.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(
        self,
        kind: Kind,
        path: str,
        permission: Permission,
        file: tuple[Path, int] | None = None,
        on_piece: Callable[[int, bytes], None] = lambda offset, piece: None,
    ) -> Item:
        doing = "uploading" if file else "making directory"
        call = RequestInfo(doing, "POST", self._items, path, is_change=True)
        expected = {"path": path, "kind": kind, "size": file and file[1]}

        def attempt(to: str, form: CreateForm) -> Item:
            body = form.encode(kind, to, permission, file)
            body.on_piece = on_piece
            item = self._request_parsed(call, parse_item, Payload(body))
            try:
                return self._check_reply(call, item, expected)
            except WrongAnswerError as error:
                self._undo_wrong_create(call, item, error)

        return self._send_in_path_style(
            path, lambda to: self._forms.create_with_any_form(kind, partial(attempt, to))
        )

    def _check_reply(self, call: RequestInfo, item: Item, expected: Mapping[str, object]) -> Item:
        """Return the `item` in the reply to a change if it shows the `expected` values (api/wire.md, Errors).

        Raises WrongAnswerError: the server must be asked what was done.
        """
        for name, value in expected.items():
            shown = getattr(item, name)
            if None not in (value, shown) and shown != value:
                raise self._wire.error_from_bad_reply(
                    call, _mismatch_error(call, name, str(shown), str(value))
                )
        return item

    def _undo_wrong_create(self, call: RequestInfo, item: Item, error: WrongAnswerError) -> NoReturn:
        """Raise the error for a create whose reply shows a different item than was asked for.

        If the server has changed the form of a hidden name, delete the item and raise BadRequestError (save/protocol.md R6),
        or AnswerLostError if the delete fails. Otherwise raise `error`.
        """
        changed = names.describe_other_form(call.subject, item.path)
        if not changed or names.parse_hidden_name(names.basename(call.subject)) is None:
            raise error
        try:
            self.delete(item.id)
        except ApiError as failure:
            raise AnswerLostError(f"{error}: {failure}") from None
        raise BadRequestError(changed, status=error.status)

    def _send_in_path_style(
        self,
        path: str,
        send: Callable[[str], Item],
        item_id: str = "",
        connection: HeldConnection | None = None,
        *,
        explain: bool = True,
    ) -> Item:
        """Send a request that puts an item at `path`, spelled in the style of the server's items.

        Until that style is known, try both in turn. If a 400 or 409 is in the server's own words, look for its cause
        (api/wire.md, Update).
        """
        try:
            if self._slash is not None:
                return send(self._slash + path)
            try:
                return send(path)
            except (BadRequestError, InvalidRequestError) as error:
                if isinstance(error, UNDERSTOOD) or error.status not in _ABOUT_A_PATH:
                    raise
            return send("/" + path)
        except BadRequestError as refusal:
            if explain and type(refusal) is BadRequestError and refusal.status in _BAD_REQUEST:
                raise self._classify_bad_request(path, item_id, connection)(
                    str(refusal), status=refusal.status
                ) from None
            raise

    def _classify_bad_request(
        self, path: str, item_id: str, connection: HeldConnection | None
    ) -> type[BadRequestError]:
        directory = names.parent(path)
        try:
            items = self.find(path, connection=connection)
            if any(item.id != item_id for item in items):
                return PathExistsError
            if (
                not items
                and directory
                and not any(item.is_dir for item in self.find(directory, connection=connection))
            ):
                return NoDirectoryError
        except UnavailableError:
            raise
        except ApiError:
            pass
        return BadRequestError

    def _request_find(self, sent_path: str, path: str, connection: HeldConnection | None) -> list[Item]:
        quoted = quote(sent_path, safe="", errors="replace")
        call = RequestInfo("looking up", "GET", f"{self._items}find?path={quoted}", path)
        page = self._request_parsed(call, partial(parse_page, take=0, skip=0), connection=connection)
        return [item for item in page.items if item.path == path]

    def _request_parsed(
        self,
        call: RequestInfo,
        parse: _Parse[_Parsed],
        payload: Payload = PLAIN,
        *,
        connection: HeldConnection | None = None,
    ) -> _Parsed:
        """Send a request and return its parsed reply; remember the server's spelling."""
        body = self._send_request(call, payload, connection=connection).body
        try:
            parsed, spelling = parse(body)
        except MismatchError as exc:
            raise self._wire.error_from_bad_reply(call, exc) from None
        if spelling is not None:
            self._slash, self._forms.long_type = spelling
        return parsed

    def _send_request(
        self, call: RequestInfo, payload: Payload = PLAIN, *, connection: HeldConnection | None = None
    ) -> Reply:
        if connection is None:
            self._require_reachable_if_foreground(call)
        return self._wire.request(call, payload, connection=connection)

    def _require_reachable_if_foreground(self, subject: object) -> None:
        """Call `probe_and_require_reachable` if a program waits for the reply. A background request is sent without a probe."""
        deadline = current_deadline()
        if deadline is not None and deadline.is_foreground:
            self.probe_and_require_reachable(subject)


def _mismatch_error(
    call: RequestInfo, name: str, actual: str, expected: str
) -> MismatchError | WrongAnswerError:
    """Return the error for a reply whose field `name` does not have the value that was asked for.

    Messages show a hidden path as the path of its file, so two paths that differ only in the hidden name would read the same.
    """
    if name == "path" and names.replace_hidden_names(actual) == names.replace_hidden_names(expected):
        done = "did not move it" if call.action == _RENAMING else "gave it another name"
        return WrongAnswerError(f"{call}: the server answered, but {done}", status=200)
    return MismatchError(f"{name} is {actual!a}, not {expected!a}")


def _parse_extent(reply: Reply, start: int) -> tuple[int, int | None, int | None]:
    """Return `start`, `length` and `total` of the reply to a request for the bytes from `start` on; raises MismatchError."""
    headers, packed = reply.headers, is_compressed(reply.headers)
    if reply.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return start, 0, None
    if reply.status == httpx.codes.OK:
        # The Content-Length of a compressed body counts the bytes on the wire.
        length = None if packed or "content-length" not in headers else int(headers["content-length"])
        return 0, length, length
    content_range = headers.get("content-range", "").strip()
    match = _RANGE.fullmatch(content_range)
    if reply.status == httpx.codes.PARTIAL_CONTENT and match and not packed and int(match[1]) == start:
        return start, int(match[2]) + 1 - start, None if match[3] == "*" else int(match[3])
    raise MismatchError(
        f"status {reply.status} with Content-Range {content_range!r} to a download from byte {start}"
    )

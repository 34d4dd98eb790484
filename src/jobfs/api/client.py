"""The client of the Workspace Instance API: one typed method for each endpoint."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar
from urllib.parse import quote

import httpx

from jobfs import names
from jobfs.api.access import KeySource, check_base_url, check_job_id
from jobfs.api.bodies import UNDERSTOOD, CreateEncoding, Form, Forms, compressed, decoded, json_body
from jobfs.api.deadline import about_to_wait, current
from jobfs.api.failures import Call, MismatchError
from jobfs.api.line import LARGE
from jobfs.api.models import Instance, Page, Spelling, parse_instance, parse_item, parse_page
from jobfs.api.wire import PLAIN, Answer, Send, Turn, Wire
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
_Parse = Callable[[bytes], tuple[_Parsed, Spelling | None]]

#: Seconds between two requests that find out whether the server answers again, and how long a caller waits for one.
_ASK_EVERY, _MOMENT = 1.0, 0.5

#: How messages name an update with a path.
_RENAMING = "renaming an item to"
#: Characters that have another meaning in patterns of paths.
_SPECIAL = re.compile(r"[][{}()\\]|^[!#]")
#: Statuses with a reason that may be "exists" or "no directory".
_BAD_REQUEST = frozenset({400, 409})
#: Statuses that may be about how a path is written.
_ABOUT_A_PATH = frozenset({400, 422})
_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE | re.ASCII)


class Download(NamedTuple):
    """One body on its way.

    `start`: the first byte that comes, 0 if the server ignored the range. `length`: bytes of this body, `total`: of the whole
    file; None if the server did not say. `chunks`: the bytes as they arrive; raises ApiError, UnavailableError if the body
    breaks off or is too short.
    """

    start: int
    length: int | None
    total: int | None
    chunks: Callable[[], Iterator[bytes]]


class Client(AbstractContextManager["Client"]):
    """Talks to one job's workspace instance; every method may be called by many threads at once, and raises ApiError.

    Reads are retried within `timeout` seconds without progress. A changing request is sent again only where nothing can have
    happened; otherwise it raises AnswerLostError at once (vfs/semantics.md 5). `transport` replaces the network, for tests and to
    see what passes.
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
    ) -> None:
        self.job_id = check_job_id(job_id)
        self.base_url = check_base_url(base_url)
        self.max_connections = max_connections
        self._root = f"/api/studio/v1/expert_jobs/{job_id}/workspace_instance/"
        self._items = f"{self._root}items/"
        self._wire = Wire(
            self.base_url, key, timeout=timeout, max_connections=max_connections, transport=transport
        )
        self.health, self.line = self._wire.health, self._wire.line
        self._forms = Forms(create_encoding)
        self._slash: str | None = None  # what paths begin with on this server; None until an item was seen
        #: When the server was asked last whether it answers again, the thread that asked, and whether an answer came. The lock of
        #: `health` guards them.
        self._asked, self._asking, self._answered = -math.inf, threading.Thread(), False

    @property
    def forms(self) -> dict[Kind, Form]:
        """How this server has taken creates."""
        return dict(self._forms.good)

    @property
    def server_time_offset(self) -> float:
        """Seconds that the server's clock is ahead of `steady()`; 0.0 until an answer came."""
        return self.health.offset

    def answers(self) -> bool:
        """True if a server that did not answer answers again.

        Once a second a thread asks for all callers, and waits as long as a slow server takes. Callers wait for it during its
        first half second.
        """
        with self.health.lock:
            now = time.monotonic()
            if now - self._asked >= _ASK_EVERY and (self.health.away or not self._asking.is_alive()):
                self._asked, self._asking = now, threading.Thread(target=self._ask_again, daemon=True)
                self._asking.start()
            asking, until = self._asking, self._asked + _MOMENT
        about_to_wait()
        asking.join(max(0.0, until - now))
        return self._answered and not asking.is_alive()

    def _ask_again(self) -> None:
        self._answered = False
        with suppress(JobfsError):
            self.list_page(1, 0)
            self._answered = True

    def reach(self, what: object) -> None:
        """Where the server is out of reach, see whether it is back. Raises HeldBackError(ENETUNREACH) if not: `what` needs it."""
        if self.health.away is not None:
            self.answers()
            self.health.check(what)

    def turn(self, what: object) -> AbstractContextManager[Turn]:
        """Wait for a connection, and hold it for the requests that are given the turn (save/protocol.md R8).

        Each of these has one attempt: it raises UnavailableError where another would have to wait before it tries again.
        """
        self._reach_for_call(what)
        return self._wire.turn(what)

    def two_turns(self, what: object) -> AbstractContextManager[tuple[Turn, Turn] | None]:
        """Wait for two connections, for requests that are sent at once; None where there are too few (save/protocol.md R13)."""
        self._reach_for_call(what)
        return self._wire.two_turns(what)

    def instance(self) -> Instance:
        """The workspace instance with its job (GET workspace_instance/)."""
        return self._ask(Call("asking for the job", "GET", self._root), parse_instance)

    def list_page(self, take: int, skip: int) -> Page:
        """One page of the flat list of all items (GET items/); `take` is 1 to 100."""
        call = Call("listing the workspace", "GET", f"{self._items}?take={take}&skip={skip}")
        return self._ask(call, partial(parse_page, take=take, skip=skip))

    def find(self, path: str, *, turn: Turn | None = None) -> list[Item]:
        """Every item at exactly `path`, which may be more than one (GET items/find)."""
        if not path:
            return []
        asked = self._slash or ""
        items = self._find(asked + path, path, turn)
        if not items and self._slash != asked:
            # No item had shown this server's style yet, and "not there" must not be a matter of style.
            items = self._find("/" + path, path, turn)
        if not items and _SPECIAL.search(path):
            # Where find takes patterns, `[id].txt` does not match itself.
            items = self._find((self._slash or "") + _SPECIAL.sub("?", path), path, turn)
        return items

    def get(self, item_id: str, *, turn: Turn | None = None) -> Item:
        """The item with this id (GET items/{id}); raises NotFoundError."""
        call = Call("looking at item", "GET", self._items + item_id, item_id)
        return self._ask(call, parse_item, turn=turn)

    def create_file(
        self,
        path: str,
        source: Path,
        size: int,
        permission: Permission,
        taken: Callable[[int, bytes], None] = lambda before, piece: None,
    ) -> Item:
        """Create a file from the first `size` bytes of `source`, streamed (POST items/).

        `taken` gets each piece that is sent and the number of bytes before it, at the end an empty piece. Each attempt
        begins again with 0. Raises FsError if `source` can't be read.
        """
        return self._create(Kind.FILE, path, permission, (source, size), taken)

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
        turn: Turn | None = None,
        explain: bool = True,
    ) -> Item:
        """Change the fields that are given, no others (POST items/{id}); a new path also moves the items below the old path.

        `kind`: the item's kind, if it is known: the answer has to show it. `explain`: where the words of a refusal are not
        understood, a look finds out whether the new path is taken (api/wire.md, Update).
        """
        given = {"lifecycle": lifecycle, "permission": permission, "path": path}
        asked = {name: value for name, value in given.items() if value is not None}
        doing = ("changing item", item_id) if path is None else (_RENAMING, path)
        call = Call(doing[0], "POST", self._items + item_id, doing[1], changing=True)

        def send(**styled: str) -> Item:
            body = json_body({name: str(value) for name, value in (asked | styled).items()})
            item = self._ask(call, parse_item, Send(body), turn=turn)
            return self._as_asked(call, item, {"id": item_id, "kind": kind, **asked})

        if path is None:
            return send()
        return self._put(path, lambda to: send(path=to), item_id, turn, explain=explain)

    def delete(self, item_id: str, *, turn: Turn | None = None) -> None:
        """Delete an item, a directory with all in it (DELETE items/{id}); the answer's body is ignored."""
        call = Call("deleting item", "DELETE", self._items + item_id, item_id, changing=True)
        self._request(call, turn=turn)

    @contextmanager
    def download(
        self, item_id: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> Iterator[Download]:
        """The bytes of a file from `start` to before `end` (GET items/{id}/download), while their connection is held.

        `size`: bytes of the whole file, if they are known: small bodies go before large ones. The server may send more than
        was asked for: look at `Download.start`. Only the request is retried, not the body; each chunk may take `timeout`
        seconds.
        """
        call = Call("downloading item", "GET", self._items + item_id + "/download", item_id)
        headers = [("Accept-Encoding", "identity")]  # some gateways compress all the same
        if start or end is not None:
            headers.append(("Range", f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"))
        stop = size if end is None else end
        send = Send(None, headers, streamed=True, large=stop is None or stop - start > LARGE)
        try:
            answer = self._request(call, send)
        except NotFoundError as error:
            # The 404 may be about the bytes alone, but callers would forget the item.
            self.get(item_id)
            raise ContractError(f"{error}, but the item is there", status=error.status) from None
        stream = answer.stream
        assert stream is not None
        try:
            start, length, total = _extent(answer, start)

            def chunks() -> Iterator[bytes]:
                try:
                    yield from decoded(stream, answer.headers) if length != 0 else ()
                except (httpx.HTTPError, MismatchError) as exc:
                    raise self._wire.explain(call, exc) from None

            yield Download(start, length, total, chunks)
        except MismatchError as exc:
            raise self._wire.explain(call, exc) from None
        finally:
            stream.close()

    def break_off(self) -> None:
        """End every request under way, as if its connection had broken; nothing is asked any more."""
        self.line.break_off()

    def close(self) -> None:
        """Close every connection; requests that wait for a retry end at once."""
        self._wire.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(
        self,
        kind: Kind,
        path: str,
        permission: Permission,
        file: tuple[Path, int] | None = None,
        taken: Callable[[int, bytes], None] = lambda before, piece: None,
    ) -> Item:
        doing = "uploading" if file else "making directory"
        call = Call(doing, "POST", self._items, path, changing=True)
        asked = {"path": path, "kind": kind, "size": file and file[1]}

        def attempt(to: str, form: Form) -> Item:
            body = form.body(kind, to, permission, file)
            body.taken = taken
            item = self._ask(call, parse_item, Send(body))
            try:
                return self._as_asked(call, item, asked)
            except WrongAnswerError as error:
                self._undo(call, item, error)

        return self._put(path, lambda to: self._forms.create(kind, partial(attempt, to)))

    def _as_asked(self, call: Call, item: Item, asked: Mapping[str, object]) -> Item:
        """The item in the answer to a change, if the fields that it shows are as asked for (section 5).

        Raises WrongAnswerError: only a look tells what was done.
        """
        for name, value in asked.items():
            shown = getattr(item, name)
            if None not in (value, shown) and shown != value:
                raise self._wire.explain(call, _mismatch(call, name, str(shown), str(value)))
        return item

    def _undo(self, call: Call, item: Item, error: WrongAnswerError) -> NoReturn:
        """A create was answered with another `item` than was asked for. Raises `error`.

        If a hidden name shows that it is ours, and this server made another name of it, it is deleted again; then raises
        BadRequestError (save/protocol.md R6).
        """
        changed = names.other_form(call.subject, item.path)
        if not changed or names.parse_hidden(names.basename(call.subject)) is None:
            raise error
        try:
            self.delete(item.id)
        except ApiError as failure:
            raise AnswerLostError(f"{error}: {failure}") from None
        raise BadRequestError(changed, status=error.status)

    def _put(
        self,
        path: str,
        send: Callable[[str], Item],
        item_id: str = "",
        turn: Turn | None = None,
        *,
        explain: bool = True,
    ) -> Item:
        """Send a request that puts an item at `path`, in the style of the server's items: until one was seen, in both in turn.

        If a 400 comes in words of the server's own, a look finds out what it means (api/wire.md, Update).
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
                raise self._meaning(path, item_id, turn)(str(refusal), status=refusal.status) from None
            raise

    def _meaning(self, path: str, item_id: str, turn: Turn | None) -> type[BadRequestError]:
        above = names.parent(path)
        try:
            there = self.find(path, turn=turn)
            if any(item.id != item_id for item in there):
                return PathExistsError
            if not there and above and not any(item.is_dir for item in self.find(above, turn=turn)):
                return NoDirectoryError
        except UnavailableError:
            raise
        except ApiError:
            pass
        return BadRequestError

    def _find(self, argument: str, path: str, turn: Turn | None) -> list[Item]:
        quoted = quote(argument, safe="", errors="replace")
        call = Call("looking up", "GET", f"{self._items}find?path={quoted}", path)
        page = self._ask(call, partial(parse_page, take=0, skip=0), turn=turn)
        return [item for item in page.items if item.path == path]

    def _ask(
        self, call: Call, parse: _Parse[_Parsed], send: Send = PLAIN, *, turn: Turn | None = None
    ) -> _Parsed:
        """The parsed answer to a call; the server's spelling is learned from it."""
        body = self._request(call, send, turn=turn).body
        try:
            parsed, spelling = parse(body)
        except MismatchError as exc:
            raise self._wire.explain(call, exc) from None
        if spelling is not None:
            self._slash, self._forms.long_type = spelling
        return parsed

    def _request(self, call: Call, send: Send = PLAIN, *, turn: Turn | None = None) -> Answer:
        if turn is None:
            self._reach_for_call(call)
        return self._wire.request(call, send, turn=turn)

    def _reach_for_call(self, what: object) -> None:
        """As `reach`, where a program waits for `what`: the background finds out by its own requests."""
        deadline = current()
        if deadline is not None and deadline.waited:
            self.reach(what)


def _mismatch(call: Call, name: str, shown: str, asked: str) -> MismatchError | WrongAnswerError:
    """The error for an answer that shows another value of this field than was asked for.

    Messages show a hidden path as the path of its file. So two paths that differ only in that would read the same.
    """
    if name == "path" and names.plain(shown) == names.plain(asked):
        done = "did not move it" if call.doing == _RENAMING else "gave it another name"
        return WrongAnswerError(f"{call}: the server answered, but {done}", status=200)
    return MismatchError(f"{name} is {shown!a}, not {asked!a}")


def _extent(answer: Answer, start: int) -> tuple[int, int | None, int | None]:
    """`start`, `length` and `total` of the answer to a request for the bytes from `start` on; raises MismatchError."""
    headers, packed = answer.headers, compressed(answer.headers)
    if answer.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        return start, 0, None
    if answer.status == httpx.codes.OK:
        # The Content-Length of a compressed body counts the bytes on the wire.
        length = None if packed or "content-length" not in headers else int(headers["content-length"])
        return 0, length, length
    told = headers.get("content-range", "").strip()
    match = _RANGE.fullmatch(told)
    if answer.status == httpx.codes.PARTIAL_CONTENT and match and not packed and int(match[1]) == start:
        return start, int(match[2]) + 1 - start, None if match[3] == "*" else int(match[3])
    raise MismatchError(f"a file with status {answer.status} and {told!r} to a request from byte {start}")

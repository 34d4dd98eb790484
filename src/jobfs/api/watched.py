"""A client whose requests can be looked at: each with its raw answer, status and bytes, which the client itself hides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from jobfs.api.bodies import MOST_REASON, Body, decoded
from jobfs.api.client import Client
from jobfs.api.create import CreateEncoding
from jobfs.api.failures import Call, MismatchError
from jobfs.api.key import KeySource
from jobfs.api.transport import pool
from jobfs.api.wire import Answer, Send, Wire

#: Refusals that are answers, not failures: not those that speak of the key, the moment or the server.
_TOLD = frozenset({400, 404, 405, 409, 413, 415, 416, 422})
#: Bytes of a request's body that are kept, and exchanges.
_MOST_SENT, _MOST_KEPT = 4096, 40
_CONNECTIONS = 8


@dataclass(eq=False)
class Exchange:
    """One request on the wire and its answer; `seconds` until the answer began. Never has the key.

    `target`: path and query. `status` is None, and `failed` says why, if none came. `sent` and `body` are the beginnings
    of the bodies, `came` the bytes of the answer's on the wire.
    """

    method: str
    target: str
    content_type: str
    length: int
    status: int | None = None
    failed: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    sent: bytearray = field(default_factory=bytearray)
    raw: bytearray = field(default_factory=bytearray)
    came: int = 0

    @property
    def body(self) -> bytes:
        """The beginning of the answer's body as it was before it was compressed."""
        try:
            return b"".join(decoded([bytes(self.raw)], httpx.Headers(dict(self.headers))))
        except (httpx.HTTPError, MismatchError):
            return b""


class Watched:
    """A `client`, and `send` for what it can't ask, over one pool; `exchanges` has the first of them since `forget`."""

    def __init__(
        self,
        base_url: str,
        job_id: str,
        key: KeySource,
        *,
        timeout: float,
        create_encoding: CreateEncoding = "auto",
    ) -> None:
        self._timeout, self._key = timeout, key
        self.exchanges: list[Exchange] = []
        self._transport = _Recording(pool(base_url, timeout, _CONNECTIONS), self._note)
        self.client = Client(
            base_url,
            job_id,
            key,
            timeout=timeout,
            max_connections=_CONNECTIONS,
            create_encoding=create_encoding,
            transport=self._transport,
        )
        self._root = "/api/studio/v1/expert_jobs/"

    def forget(self) -> None:
        """Begin with the exchanges anew."""
        self.exchanges = []

    def _note(self, exchange: Exchange) -> bool:
        kept = len(self.exchanges) < _MOST_KEPT
        if kept:
            self.exchanges.append(exchange)
        return kept

    def send(
        self,
        method: str,
        below: str,
        body: Body | None = None,
        headers: Sequence[tuple[str, str]] = (("Accept-Encoding", "gzip"),),
        *,
        job: str = "",
    ) -> Answer:
        """Send one request to `below` the job's workspace instance, of another `job` if one is given. Raises ApiError.

        Refusals of what was asked are answers; of key and server, and no answer, are errors as they are for the client.
        Where earlier ones were redirected to is not remembered.
        """
        target = f"{self._root}{job or self.client.job_id}/workspace_instance/{below}"
        call = Call(f"{method} {below.partition('?')[0]}", method, target, changing=method != "GET")
        wire = Wire(
            self.client.base_url,
            self._key,
            timeout=self._timeout,
            max_connections=_CONNECTIONS,
            transport=self._transport,
        )
        return wire.request(call, Send(body, headers, statuses=_TOLD))

    def close(self) -> None:
        """Close every connection."""
        self.client.close()


class _Recording(httpx.BaseTransport):
    def __init__(self, inner: httpx.BaseTransport, note: Callable[[Exchange], bool]) -> None:
        self._inner, self._note = inner, note

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = Exchange(
            request.method,
            request.url.raw_path.decode("ascii", "replace"),
            request.headers.get("content-type", ""),
            int(request.headers.get("content-length", "0")),
        )
        kept = self._note(exchange)
        assert isinstance(request.stream, httpx.SyncByteStream)
        request.stream = _Kept(request.stream, exchange.sent, _MOST_SENT * kept)
        began = time.monotonic()
        try:
            response = self._inner.handle_request(request)
        except httpx.HTTPError as error:
            exchange.failed, exchange.seconds = type(error).__name__, time.monotonic() - began
            raise
        exchange.status, exchange.seconds = response.status_code, time.monotonic() - began
        exchange.headers = dict(response.headers)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Kept(response.stream, exchange.raw, MOST_REASON * kept, exchange)
        return response

    def close(self) -> None:
        self._inner.close()


class _Kept(httpx.SyncByteStream):
    """A body of which the beginning is kept as it passes."""

    def __init__(
        self, stream: httpx.SyncByteStream, kept: bytearray, most: int, exchange: Exchange | None = None
    ) -> None:
        self._stream, self._kept, self._most, self._exchange = stream, kept, most, exchange

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._kept += chunk[: max(self._most - len(self._kept), 0)]
            if self._exchange is not None:
                self._exchange.came += len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()

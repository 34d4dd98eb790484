"""A transport that keeps what passes: each request with its answer, as a report of `jobfs doctor --try` shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx

from jobfs.api.bodies import MOST_REASON, decoded
from jobfs.api.failures import MismatchError

#: Exchanges that are kept.
_MOST = 40


@dataclass(eq=False)
class Exchange:
    """One request on the wire and its answer; `seconds` until the answer began. Never has the key.

    `target`: path and query. `status` is None, and `failed` says why, if none came.
    """

    method: str
    target: str
    content_type: str
    status: int | None = None
    failed: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    raw: bytearray = field(default_factory=bytearray)

    @property
    def body(self) -> bytes:
        """The beginning of the answer's body as it was before it was compressed."""
        try:
            return b"".join(decoded([bytes(self.raw)], httpx.Headers(dict(self.headers))))
        except (httpx.HTTPError, MismatchError):
            return b""


class Watched(httpx.BaseTransport):
    """What `inner` sends and gets; `exchanges` has the first of it since it was emptied."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner
        self.exchanges: list[Exchange] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it on, and note both."""
        target = request.url.raw_path.decode("ascii", "replace")
        exchange = Exchange(request.method, target, request.headers.get("content-type", ""))
        if len(self.exchanges) < _MOST:
            self.exchanges.append(exchange)
        began = time.monotonic()
        try:
            response = self._inner.handle_request(request)
        except httpx.HTTPError as error:
            exchange.failed = type(error).__name__
            raise
        exchange.status, exchange.seconds = response.status_code, time.monotonic() - began
        exchange.headers = dict(response.headers)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Kept(response.stream, exchange.raw)
        return response

    def close(self) -> None:
        """Close every connection."""
        self._inner.close()


class _Kept(httpx.SyncByteStream):
    """A body of which the beginning is kept as it passes."""

    def __init__(self, stream: httpx.SyncByteStream, kept: bytearray) -> None:
        self._stream, self._kept = stream, kept

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._kept += chunk[: max(MOST_REASON - len(self._kept), 0)]
            yield chunk

    def close(self) -> None:
        self._stream.close()

"""The bodies of answers, read within bounds: so many bytes after decompression, so many seconds in all.

Whatever a server sends, a request takes a bounded amount of memory, and ends.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator

import httpx

from jobfs.api.failures import MismatchError

#: Bytes of JSON. A page of 100 items whose paths and keys have 1,024 characters, all spelled `\uXXXX`, has 1.5 MB.
MOST_JSON = 4 << 20
#: Bytes of what describes the job: it may have all items in it once more.
MOST_INSTANCE = 16 << 20
#: Bytes of a body that says no more than why, or nothing of interest.
MOST_REASON = 64 << 10
#: Bytes that are decompressed at a time.
_PIECE = 64 << 10


def read_answer(response: httpx.Response, limit: int, seconds: float, *, whole: bool = True) -> None:
    """Read a body of at most `limit` bytes that comes within `seconds`; `response.content` has it then.

    Raises httpx.HTTPError, MismatchError. Where its beginning will do (not `whole`), what is too much, too late or
    badly compressed is left out.
    """
    coding = coding_of(response.headers)
    response.headers.pop("content-encoding", None)
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Bounded(response.stream, coding, limit, seconds, whole)
    try:
        response.read()
    except BaseException:
        response.close()
        raise


def coding_of(headers: httpx.Headers) -> str:
    """How a body is compressed; "" if it is not."""
    coding = headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def decoded(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The body as it was before it was compressed, in small pieces; raises MismatchError, httpx.DecodingError."""
    if not coding:
        yield from chunks
        return
    if coding not in ("gzip", "x-gzip"):
        raise MismatchError(f"content encoding {coding!r}, which was not asked for")
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    empty = True
    try:
        for chunk in chunks:
            empty = False
            left = chunk
            while left and not unzip.eof:
                yield unzip.decompress(left, _PIECE)
                left = unzip.unconsumed_tail
        yield unzip.flush()
    except zlib.error as exc:
        raise httpx.DecodingError(str(exc)) from None
    if not (unzip.eof or empty):
        raise httpx.DecodingError("the compressed body ends early")


class _Bounded(httpx.SyncByteStream):
    """A body in place of another, decompressed and cut."""

    def __init__(
        self, stream: httpx.SyncByteStream, coding: str, limit: int, seconds: float, whole: bool
    ) -> None:
        self._stream = stream
        self._coding = coding
        self._limit = limit
        self._end = time.monotonic() + seconds
        self._whole = whole

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._within(decoded(self._within(self._stream), self._coding))
        except (MismatchError, httpx.DecodingError, httpx.ReadTimeout):
            if self._whole:
                raise

    def close(self) -> None:
        self._stream.close()

    def _within(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        came = 0
        for chunk in chunks:
            # What has come in one piece has come in time.
            if came and time.monotonic() > self._end:
                raise httpx.ReadTimeout("the answer came too slowly")
            came += len(chunk)
            if came > self._limit:
                raise MismatchError(f"a body of more than {self._limit} bytes")
            yield chunk

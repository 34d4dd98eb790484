"""Bodies: of requests as JSON and in the two forms of a create, streamed from disk with a known length; of answers, read within
bounds: so many bytes after decompression, so many seconds in all. Whatever a server sends takes a bounded amount of memory and
ends.
"""

from __future__ import annotations

import base64
import errno
import json
import mimetypes
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import httpx

from jobfs.api.failures import MismatchError
from jobfs.errors import FsError
from jobfs.names import basename

#: Bytes read from disk at a time; a multiple of 3, so that each piece is whole base64 groups.
_CHUNK = 3 * 16 * 1024
#: Bytes that buffers on the way may hold when the last one was handed over.
_BUFFERED = 8 << 20


class Body(httpx.SyncByteStream):
    """A request body of known length that can be sent again from the start.

    While it is sent, `moved` is called with the seconds that each piece took: time in which there was progress; and `part`
    with how much of it was handed over, from 0 to 1.
    """

    def __init__(
        self, content_type: str, head: bytes, source: Source | None = None, tail: bytes = b""
    ) -> None:
        self.content_type = content_type
        self.length = len(head) + (source.length if source else 0) + len(tail)
        self.moved: Callable[[float], None] = lambda seconds: None
        self.part: Callable[[float], None] = lambda part: None
        self._head = head
        self._source = source
        self._tail = tail

    def __iter__(self) -> Iterator[bytes]:
        if self._source is None:
            yield self._head + self._tail
            return
        began = since = time.monotonic()
        sent = 0
        yield self._head
        for chunk in self._source.chunks():
            now = time.monotonic()
            self.moved(now - since)
            since = now
            self.part(sent / self._source.length)
            yield chunk
            sent += len(chunk)
        self.part(1.0)
        yield self._tail
        now = time.monotonic()
        # The last of it is still on its way: in buffers here and there.
        self.moved(now - since + (now - began) * min(1.0, _BUFFERED / self.length))


class Source:
    """`size` bytes of a file, as they are or in base64; `length` is what they take on the wire."""

    def __init__(self, path: Path, size: int, *, as_base64: bool = False) -> None:
        self._path = path
        self._size = size
        self._as_base64 = as_base64
        self.length = (size + 2) // 3 * 4 if as_base64 else size

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces; raises FsError: the file's errno, or EIO if it is shorter than said."""
        try:
            with open(self._path, "rb") as file:
                left = self._size
                while left:
                    chunk = file.read(min(_CHUNK, left))
                    if not chunk:
                        raise FsError(
                            errno.EIO, f"{self._path} is shorter than the {self._size} bytes to be sent"
                        )
                    left -= len(chunk)
                    yield base64.b64encode(chunk) if self._as_base64 else chunk
        except OSError as exc:
            number = exc.errno or errno.EIO
            raise FsError(number, f"can't read {self._path}: {os.strerror(number)}") from None


def json_body(value: dict[str, str]) -> Body:
    """A JSON object; raises FsError (EILSEQ) for a text that is not valid Unicode."""
    return Body("application/json", _encode(json.dumps(value, ensure_ascii=False)))


def json_create(fields: dict[str, str], file: tuple[Path, int] | None) -> Body:
    """A create as JSON {type, path, permission, content}; a directory has no content (wire-facts.md)."""
    if file is None:
        return json_body(fields)
    head = _encode(json.dumps(fields, ensure_ascii=False)[:-1] + ', "content": "')
    return Body("application/json", head, Source(*file, as_base64=True), b'"}')


def multipart_create(fields: dict[str, str], file: tuple[Path, int] | None) -> Body:
    """A create as multipart/form-data: the fields, then for a file the part `file` (wire-facts.md)."""
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    tail = f"--{boundary}--\r\n"
    content_type = f"multipart/form-data; boundary={boundary}"
    if file is None:
        return Body(content_type, _encode(head + tail))
    name = basename(fields["path"])
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quote(name)}"\r\n'
        f"Content-Type: {_mime_type(name)}\r\n\r\n"
    )
    return Body(content_type, _encode(head), Source(*file), _encode("\r\n" + tail))


def _quote(name: str) -> str:
    # The escapes of HTML's form submission: the only ones that every parser agrees on.
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _mime_type(name: str) -> str:
    mime_type, encoding = mimetypes.guess_type(f"x/{name}")
    return mime_type if mime_type and not encoding else "application/octet-stream"


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise FsError(errno.EILSEQ, "the API can't carry a name that is not valid Unicode") from None


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

"""Bodies: of requests as JSON and in the two forms of a create, streamed from disk with a known length; of answers, decompressed
within bounds. Whatever a server sends takes a bounded amount of memory, and ends by the request's deadline.
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
    """A request body of known length that can be sent again from the start: `head`, `size` bytes of a file, `tail`.

    While it is sent, `moved` is called with the seconds that each piece of the file took: time in which there was progress; and
    `part` with how much of it was handed over, from 0 to 1. Sending raises FsError: the file's errno, or EIO if it is shorter
    than said.
    """

    def __init__(
        self,
        content_type: str,
        head: bytes,
        file: tuple[Path, int] | None = None,
        tail: bytes = b"",
        *,
        as_base64: bool = False,
    ) -> None:
        self.content_type = content_type
        size = file[1] if file else 0
        self.length = len(head) + ((size + 2) // 3 * 4 if as_base64 else size) + len(tail)
        self.moved: Callable[[float], None] = lambda seconds: None
        self.part: Callable[[float], None] = lambda part: None
        self._head, self._file, self._tail = head, file, tail
        self._as_base64 = as_base64

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield self._head + self._tail
            return
        path, size = self._file
        sent, began = 0, time.monotonic()
        since = began
        # A small file goes out in one piece: each is a write, a packet, and work for the server.
        piece = self._head
        try:
            with open(path, "rb") as file:
                while sent < size:
                    chunk = file.read(min(_CHUNK, size - sent))
                    if not chunk:
                        raise FsError(errno.EIO, f"{path} is shorter than the {size} bytes to be sent")
                    now = time.monotonic()
                    self.moved(now - since)
                    since = now
                    self.part(sent / size)
                    piece += base64.b64encode(chunk) if self._as_base64 else chunk
                    if len(piece) >= _CHUNK:
                        yield piece
                        piece = b""
                    sent += len(chunk)
        except OSError as exc:
            number = exc.errno or errno.EIO
            raise FsError(number, f"can't read {path}: {os.strerror(number)}") from None
        self.part(1.0)
        yield piece + self._tail
        now = time.monotonic()
        # The last of it is still on its way: in buffers here and there.
        self.moved(now - since + (now - began) * min(1.0, _BUFFERED / self.length))


def json_body(fields: dict[str, str], file: tuple[Path, int] | None = None) -> Body:
    """A JSON object, with a `file` as its `content`; raises FsError (EILSEQ) for a text that is not valid Unicode."""
    text = json.dumps(fields, ensure_ascii=False)
    if file is None:
        return Body("application/json", _encode(text))
    return Body("application/json", _encode(text[:-1] + ', "content": "'), file, b'"}', as_base64=True)


def multipart_create(fields: dict[str, str], file: tuple[Path, int] | None) -> Body:
    """A create as multipart/form-data: the fields, then for a file the part `file` (api/wire.md)."""
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
    # The escapes of HTML's form submission: the only ones that every parser agrees on.
    quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    mime_type, encoding = mimetypes.guess_type(f"x/{name}")
    if not mime_type or encoding:
        mime_type = "application/octet-stream"
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        f"Content-Type: {mime_type}\r\n\r\n"
    )
    return Body(content_type, _encode(head), file, _encode("\r\n" + tail))


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
#: Content encodings of what is not compressed.
UNCOMPRESSED = ("", "identity")
#: Bytes that are decompressed at a time.
_PIECE = 64 << 10


def read_answer(response: httpx.Response, most: int, *, whole: bool = True) -> bytes:
    """The body of an answer, of at most `most` bytes; raises httpx.HTTPError, MismatchError.

    Where its beginning will do (not `whole`), what is too much, too late or broken is left out.
    """
    body = bytearray()
    assert isinstance(response.stream, httpx.SyncByteStream)
    try:
        for piece in decoded(response.stream, response.headers):
            body += piece
            if len(body) > most:
                raise MismatchError(f"a body of more than {most} bytes")
    except (MismatchError, httpx.HTTPError):
        if whole:
            raise
    finally:
        response.close()
    return bytes(body[:most])


def decoded(chunks: Iterable[bytes], headers: httpx.Headers) -> Iterator[bytes]:
    """A body as it was before it was compressed, in small pieces.

    Raises MismatchError for a compression that was not asked for, and httpx.DecodingError where it is broken.
    """
    coding = headers.get("content-encoding", "").strip().lower()
    if coding in UNCOMPRESSED:
        yield from chunks
        return
    if coding not in ("gzip", "x-gzip"):
        raise MismatchError(f"content encoding {coding!r}, which was not asked for")
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    empty = True
    try:
        for chunk in chunks:
            empty, left = False, chunk
            while left:
                yield unzip.decompress(left, _PIECE)
                left = unzip.unconsumed_tail
            if unzip.unused_data:
                raise httpx.DecodingError("more follows the end of the compressed body")
        yield unzip.flush()
    except zlib.error as exc:
        raise httpx.DecodingError(str(exc)) from None
    if not (unzip.eof or empty):
        raise httpx.DecodingError("the compressed body ends early")

"""Request bodies: JSON, and the two forms of a create, streamed from disk with a known length."""

from __future__ import annotations

import base64
import errno
import json
import mimetypes
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

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

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
from typing import Literal, NamedTuple

import httpx

from jobfs.api.failures import MismatchError
from jobfs.errors import (
    ApiError,
    BadRequestError,
    FsError,
    InvalidRequestError,
    NoDirectoryError,
    PathExistsError,
)
from jobfs.names import basename
from jobfs.nodes import Item, Kind

#: Bytes read from disk at a time; a multiple of 3, so that each piece is whole base64 groups.
_CHUNK = 3 * 16 * 1024
#: Bytes that buffers on the way may still hold when the last byte was handed over.
_BUFFERED = 8 << 20


class RequestBody(httpx.SyncByteStream):
    """A request body of known length that can be sent again from the start: `head`, `size` bytes of a file, `tail`.

    While it is sent, `on_send_time` is called with the seconds that each piece of the file took: time in which there was
    progress; and `taken` with each piece of the file and the number of bytes before it, at the end with an empty piece. Sending
    raises FsError: the file's errno, or EIO if the file is shorter than said.
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
        self.on_send_time: Callable[[float], None] = lambda seconds: None
        self.taken: Callable[[int, bytes], None] = lambda before, piece: None
        self._head, self._file, self._tail = head, file, tail
        self._as_base64 = as_base64

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield self._head + self._tail
            return
        path, size = self._file
        sent, began = 0, time.monotonic()
        since = began
        # A small file goes out in one piece: each piece is a write, a packet, and work for the server.
        piece = self._head
        try:
            with open(path, "rb") as file:
                while sent < size:
                    chunk = file.read(min(_CHUNK, size - sent))
                    if not chunk:
                        raise FsError(errno.EIO, f"{path} is shorter than the {size} bytes to be sent")
                    now = time.monotonic()
                    self.on_send_time(now - since)
                    since = now
                    self.taken(sent, chunk)
                    piece += base64.b64encode(chunk) if self._as_base64 else chunk
                    if len(piece) >= _CHUNK:
                        yield piece
                        piece = b""
                    sent += len(chunk)
        except OSError as exc:
            number = exc.errno or errno.EIO
            raise FsError(number, f"can't read {path}: {os.strerror(number)}") from None
        self.taken(size, b"")
        yield piece + self._tail
        now = time.monotonic()
        # The last bytes are still on their way: in buffers here and there.
        self.on_send_time(now - since + (now - began) * min(1.0, _BUFFERED / self.length))


def make_json_body(fields: dict[str, str], file: tuple[Path, int] | None = None) -> RequestBody:
    """A JSON object, with a `file` as its `content`."""
    text = json.dumps(fields, ensure_ascii=False)
    if file is None:
        return RequestBody("application/json", text.encode())
    return RequestBody(
        "application/json", (text[:-1] + ', "content": "').encode(), file, b'"}', as_base64=True
    )


def make_multipart_body(fields: dict[str, str], file: tuple[Path, int] | None) -> RequestBody:
    """A create as multipart/form-data: the fields, then for a file the part `file` (api/wire.md)."""
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    tail = f"--{boundary}--\r\n"
    content_type = f"multipart/form-data; boundary={boundary}"
    if file is None:
        return RequestBody(content_type, (head + tail).encode())
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
    return RequestBody(content_type, head.encode(), file, f"\r\n{tail}".encode())


Encoding = Literal["multipart", "json"]
CreateEncoding = Literal["auto", "multipart", "json"]

_UNSUPPORTED_MEDIA_TYPE = 415
#: Statuses that may be about the form of a create; any other is about the request itself, or about the key.
_ABOUT_THE_FORM = frozenset({400, 415, 422})
#: Errors that show that the form was right: the server read the request, and refused what it says. "Invalid path" is none of
#: them: servers also say it of a body that they did not understand.
UNDERSTOOD = (PathExistsError, NoDirectoryError)


class CreateForm(NamedTuple):
    """One form of a create: how the body is encoded, and if a type is `workspaceItemFile` or `file`."""

    encoding: Encoding
    long_type: bool

    def encode(self, kind: Kind, path: str, permission: str, file: tuple[Path, int] | None) -> RequestBody:
        """The request body for one item."""
        name = f"workspaceItem{kind.value.capitalize()}" if self.long_type else kind.value
        fields = {"type": name, "path": path, "permission": permission}
        return (make_multipart_body if self.encoding == "multipart" else make_json_body)(fields, file)


class CreateFormSelector:
    """Finds the form that works and remembers it, for files and for directories apart (api/wire.md, Create)."""

    def __init__(self, encoding: CreateEncoding) -> None:
        self.long_type = True
        self._pinned = encoding
        #: The forms that have worked.
        self.working: dict[Kind, CreateForm] = {}

    def create_with_any_form(self, kind: Kind, attempt: Callable[[CreateForm], Item]) -> Item:
        """Call `attempt` with one form after another until the answer is not 400, 415 or 422; raises ApiError.

        A 400 that tells what stands at the path is final; once a form has worked, every error is. If all forms are refused, the
        error is the first that is not about the media type: it is about the request itself.
        """
        if kind in self.working:
            return attempt(self.working[kind])
        refusals: list[ApiError] = []
        for form in self._forms_to_try():
            try:
                item = attempt(form)
            except (InvalidRequestError, BadRequestError) as exc:
                if exc.status not in _ABOUT_THE_FORM or isinstance(exc, UNDERSTOOD):
                    raise
                refusals.append(exc)
            else:
                self.working[kind] = form
                return item
        raise next((exc for exc in refusals if exc.status != _UNSUPPORTED_MEDIA_TYPE), refusals[0])

    def _forms_to_try(self) -> list[CreateForm]:
        """Forms worth trying, the likeliest first."""
        guess = next(iter(self.working.values()), CreateForm("multipart", self.long_type))
        encodings: list[Encoding] = ["multipart", "json"]
        encodings.sort(key=lambda name: name != guess.encoding)
        return [
            CreateForm(encoding, spelling)
            for spelling in (guess.long_type, not guess.long_type)
            for encoding in encodings
            if self._pinned in ("auto", encoding)
        ]


#: Bytes of a JSON body. A page of 100 items whose paths and keys have 1,024 characters, all spelled `\uXXXX`, has 1.5 MB; a find
#: may give all items that begin with the path, and the description of the job may have all items in it once more.
MOST_JSON = 8 << 20
#: Bytes that are decompressed at a time.
_PIECE = 64 << 10


def read_body(response: httpx.Response, *, whole: bool = True) -> bytes:
    """The body of an answer; raises httpx.HTTPError, MismatchError. Not `whole`: its beginning is enough, and raises nothing."""
    body = bytearray()
    assert isinstance(response.stream, httpx.SyncByteStream)
    try:
        for piece in decompress(response.stream, response.headers):
            body += piece
            if len(body) > MOST_JSON:
                raise MismatchError(f"a body of more than {MOST_JSON} bytes")
    except (MismatchError, httpx.HTTPError):
        if whole:
            raise
    finally:
        response.close()
    return bytes(body)


def is_compressed(headers: httpx.Headers) -> bool:
    """True if a body is not sent as it is."""
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def decompress(chunks: Iterable[bytes], headers: httpx.Headers) -> Iterator[bytes]:
    """A body as it was before it was compressed, in small pieces; raises MismatchError where it is not gzip, or broken."""
    if not is_compressed(headers):
        yield from chunks
        return
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in chunks:
            left = chunk
            while left:
                yield unzip.decompress(left, _PIECE)
                left = unzip.unconsumed_tail
            if unzip.unused_data:
                break
        yield unzip.flush()
    except zlib.error as exc:
        raise MismatchError(f"a body that is no gzip: {exc}") from None
    if not unzip.eof or unzip.unused_data:
        raise MismatchError("a compressed body that does not end where it should")

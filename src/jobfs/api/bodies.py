"""Request and reply bodies: requests as JSON or in one of the two forms of a create, streamed from disk with a known length;
replies, decompressed within bounds.

Whatever a server sends takes a bounded amount of memory, and ends by the request's deadline.
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

#: Bytes read from disk at a time; a multiple of 3, so that each piece encodes to whole base64 groups.
_CHUNK = 3 * 16 * 1024
#: The most bytes that buffers on the way are assumed to hold after the last write.
_BUFFERED = 8 << 20


class RequestBody(httpx.SyncByteStream):
    """A request body of known length that can be sent again from the start: `head`, `size` bytes of a file, `tail`.

    While the body is sent, `on_send_time` receives the seconds that each piece of the file took, which count as progress.
    `on_piece` receives the offset of each piece of the file and the piece; at the end, an empty piece. Sending raises FsError
    with the file's errno, or with EIO if the file is shorter than `size`.
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
        self.on_piece: Callable[[int, bytes], None] = lambda offset, piece: None
        self._head, self._file, self._tail = head, file, tail
        self._as_base64 = as_base64

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield self._head + self._tail
            return
        path, size = self._file
        sent, began = 0, time.monotonic()
        piece_began = began
        # Send a small file in one piece: each piece costs a write, a packet, and work on the server.
        piece = self._head
        try:
            with open(path, "rb") as file:
                while sent < size:
                    chunk = file.read(min(_CHUNK, size - sent))
                    if not chunk:
                        raise FsError(errno.EIO, f"{path} is shorter than the {size} bytes to be sent")
                    now = time.monotonic()
                    self.on_send_time(now - piece_began)
                    piece_began = now
                    self.on_piece(sent, chunk)
                    piece += base64.b64encode(chunk) if self._as_base64 else chunk
                    if len(piece) >= _CHUNK:
                        yield piece
                        piece = b""
                    sent += len(chunk)
        except OSError as exc:
            number = exc.errno or errno.EIO
            raise FsError(number, f"can't read {path}: {os.strerror(number)}") from None
        self.on_piece(size, b"")
        yield piece + self._tail
        now = time.monotonic()
        # The last bytes may still be in buffers: add the time that this many bytes took on average.
        self.on_send_time(now - piece_began + (now - began) * min(1.0, _BUFFERED / self.length))


def make_json_body(fields: dict[str, str], file: tuple[Path, int] | None = None) -> RequestBody:
    """Return a JSON object of these fields; the bytes of a `file` become its field `content`, in base64."""
    text = json.dumps(fields, ensure_ascii=False)
    if file is None:
        return RequestBody("application/json", text.encode())
    return RequestBody(
        "application/json", (text[:-1] + ', "content": "').encode(), file, b'"}', as_base64=True
    )


def make_multipart_body(fields: dict[str, str], file: tuple[Path, int] | None) -> RequestBody:
    """Return a multipart/form-data body: the fields, then for a file the part `file` (api/wire.md, Create)."""
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
#: Statuses that may refuse the form of a create; any other status concerns the request itself or the key.
_ABOUT_THE_FORM = frozenset({400, 415, 422})
#: Errors which show that the server understood the form and refused the request itself. InvalidPathError is not one of them:
#: servers also answer "Invalid path" to a body that they did not understand.
UNDERSTOOD = (PathExistsError, NoDirectoryError)


class CreateForm(NamedTuple):
    """One form of a create: how the body is encoded, and whether a file's type is `workspaceItemFile` or `file`."""

    encoding: Encoding
    long_type: bool

    def encode(self, kind: Kind, path: str, permission: str, file: tuple[Path, int] | None) -> RequestBody:
        """Return the request body that creates one item."""
        name = f"workspaceItem{kind.value.capitalize()}" if self.long_type else kind.value
        fields = {"type": name, "path": path, "permission": permission}
        return (make_multipart_body if self.encoding == "multipart" else make_json_body)(fields, file)


class CreateFormSelector:
    """Finds the form of a create that works and remembers it, separately for files and directories (api/wire.md, Create)."""

    def __init__(self, encoding: CreateEncoding) -> None:
        self.long_type = True
        self._pinned = encoding
        #: The form that has worked, by kind.
        self.working: dict[Kind, CreateForm] = {}

    def create_with_any_form(self, kind: Kind, attempt: Callable[[CreateForm], Item]) -> Item:
        """Call `attempt` with one form after another until the server accepts one; raises ApiError.

        The next form is tried after 415, 422, and a 400 that may concern the form. Any other error is raised at once, and so
        is every error once a form has worked for this kind. If all forms are refused, raises the first error that is not a
        415: that error concerns the request itself.
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
        """Return the forms worth trying, the likeliest first."""
        guess = next(iter(self.working.values()), CreateForm("multipart", self.long_type))
        encodings: list[Encoding] = ["multipart", "json"]
        encodings.sort(key=lambda name: name != guess.encoding)
        return [
            CreateForm(encoding, spelling)
            for spelling in (guess.long_type, not guess.long_type)
            for encoding in encodings
            if self._pinned in ("auto", encoding)
        ]


#: The most bytes of a JSON body. A page of 100 items whose paths and keys have 1,024 characters, all spelled `\uXXXX`, has 1.5
#: MB. A find may return every item whose path begins with the one asked for, and the job's description may repeat all items.
MOST_JSON = 8 << 20
#: The most bytes that one step of decompression returns.
_PIECE = 64 << 10


def read_body(response: httpx.Response, *, whole: bool = True) -> bytes:
    """Read a reply's body to its end and close the reply; raises httpx.HTTPError, MismatchError.

    If not `whole`, return what could be read instead of raising either.
    """
    body = bytearray()
    assert isinstance(response.stream, httpx.SyncByteStream)
    try:
        for piece in decompress(response.stream, response.headers):
            body += piece
            if len(body) > MOST_JSON:
                raise MismatchError(f"the body has more than {MOST_JSON} bytes")
    except (MismatchError, httpx.HTTPError):
        if whole:
            raise
    finally:
        response.close()
    return bytes(body)


def is_compressed(headers: httpx.Headers) -> bool:
    """Return whether the body has a content encoding."""
    return headers.get("content-encoding", "").strip().lower() not in ("", "identity")


def decompress(chunks: Iterable[bytes], headers: httpx.Headers) -> Iterator[bytes]:
    """Yield a body decompressed, in small pieces; raises MismatchError if a compressed body is not valid gzip."""
    if not is_compressed(headers):
        yield from chunks
        return
    unzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                yield unzip.decompress(rest, _PIECE)
                rest = unzip.unconsumed_tail
            if unzip.unused_data:
                break
        yield unzip.flush()
    except zlib.error as exc:
        raise MismatchError(f"the body is not valid gzip: {exc}") from None
    if not unzip.eof or unzip.unused_data:
        raise MismatchError("the compressed body is cut short, or other data follows it")

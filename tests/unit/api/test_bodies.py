"""Bodies of requests are streamed, with a known length; those of answers are read within bounds, after decompression."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs import errors
from jobfs.api.bodies import MOST_JSON, RequestBody, make_json_body, make_multipart_body, read_body
from jobfs.api.failures import MismatchError

from .world import ID, Chunks, Make

Encode = Callable[[dict[str, str], tuple[Path, int] | None], RequestBody]

FIELDS = {"type": "workspaceItemFile", "path": "dir/a.txt", "permission": "readWrite"}
both = pytest.mark.parametrize("encode", [make_multipart_body, make_json_body])


def body_bytes(body: RequestBody) -> bytes:
    """The body's bytes, which are as many as it says, each time it is sent."""
    data = b"".join(body)
    assert len(data) == body.length
    assert b"".join(body) == data
    return data


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"hello")
    return path


@pytest.mark.parametrize(("name", "reported", "mime_type"), [
    ("a.txt", "a.txt", "text/plain"),
    ("x.tar.gz", "x.tar.gz", "application/octet-stream"),
    ('say "hi"', "say %22hi%22", "application/octet-stream"),
    ("a\r\nb", "a%0D%0Ab", "application/octet-stream"), ("a\\b", "a\\b", "application/octet-stream"),
])  # fmt: skip
def test_the_file_part_of_a_multipart_body_has_a_name_and_type(
    source: Path, name: str, reported: str, mime_type: str
) -> None:
    """No name can break out of its header."""
    body = make_multipart_body({**FIELDS, "path": f"dir/{name}"}, (source, 5))
    assert len(list(body)) == 1, "each piece is a write, and work for the server"
    part = f'; name="file"; filename="{reported}"\r\nContent-Type: {mime_type}\r\n\r\nhello\r\n--'
    assert part.encode() in body_bytes(body)


@given(content=st.binary(max_size=50))
def test_a_json_body_has_content_in_base64(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("source") / "x"
    path.write_bytes(content)
    reported = json.loads(body_bytes(make_json_body({**FIELDS, "path": 'ünï "q"\\'}, (path, len(content)))))
    assert base64.b64decode(reported.pop("content"), validate=True) == content
    assert reported == {**FIELDS, "path": 'ünï "q"\\'}


@both
def test_a_large_file_is_streamed_with_its_progress_reported(tmp_path: Path, encode: Encode) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(24 << 20)
    tracemalloc.start()
    try:
        body, reported, took, taken = (
            encode(FIELDS, (path, 24 << 20)),
            list[int](),
            list[float](),
            hashlib.sha256(),
        )

        def take(before: int, piece: bytes) -> None:
            reported.append(before)
            taken.update(piece)

        body.on_piece = take
        body.on_send_time = took.append
        assert sum(map(len, body)) == body.length
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert reported == sorted(reported)
    assert (reported[0], reported[-1], 0 < reported[1] < 1 << 20) == (0, 24 << 20, True)
    assert taken.digest() == hashlib.sha256(bytes(24 << 20)).digest()
    assert len(took) == len(reported)
    assert all(seconds > 0 for seconds in took)


@both
def test_a_body_of_another_length_than_promised_is_an_error(source: Path, encode: Encode) -> None:
    begun = body_bytes(encode(FIELDS, (source, 3)))
    assert (b"hel\r\n" in begun or base64.b64encode(b"hel") in begun) is True
    for name, number in (("source", errno.EIO), ("missing", errno.ENOENT)):
        with pytest.raises(errors.FsError) as caught:
            b"".join(encode(FIELDS, (source.parent / name, 6)))
        assert caught.value.errno == number


class Endless(httpx.SyncByteStream):
    """The same bytes until it is closed, and how many of them were taken."""

    def __init__(self, chunk: bytes) -> None:
        self.taken = 0
        self.closed = False
        self._chunk = chunk

    def __iter__(self) -> Iterator[bytes]:
        while not self.closed:
            self.taken += len(self._chunk)
            yield self._chunk

    def close(self) -> None:
        self.closed = True


def answer(stream: httpx.SyncByteStream, coding: str = "") -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": coding} if coding else {}, stream=stream)


def bytewise(body: bytes) -> Chunks:
    return Chunks(*(body[place : place + 1] for place in range(len(body))))


@pytest.mark.parametrize(("packed", "coding"), [
    (b"no gzip", "gzip"),
    (gzip.compress(b"x" * 1000, mtime=0)[:-9], "gzip"),
    (gzip.compress(b"x", mtime=0) + b"more", "gzip"),
    (zlib.compress(b"{}"), "deflate"),  # which was not asked for
])  # fmt: skip
def test_a_body_that_is_badly_compressed_is_an_error(packed: bytes, coding: str) -> None:
    assert read_body(answer(bytewise(gzip.compress(b"x" * 1000)), "GZIP")) == b"x" * 1000
    with pytest.raises(MismatchError):
        read_body(answer(bytewise(packed), coding))
    read_body(answer(bytewise(packed), coding), whole=False)


def test_bytes_after_the_end_of_a_compressed_body_are_not_read() -> None:
    stream = Endless(gzip.compress(b"x", mtime=0))
    with pytest.raises(MismatchError):
        read_body(answer(stream, "gzip"))
    assert stream.taken < 100


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_no_response_body_exceeds_its_bound(make: Make, coding: str) -> None:
    """vfs/semantics.md 5.8: a reply that does not match the contract is EIO. The bound counts decompressed bytes."""
    chunk = gzip.compress(b" " * (64 << 20), mtime=0) if coding else b" " * 65536
    streams: list[Endless] = []

    def server(request: httpx.Request) -> httpx.Response:
        streams.append(Endless(chunk))
        return answer(streams[-1], coding)

    client = make(server)
    for ask in (lambda: client.list_page(100, 0), client.get_instance):
        with pytest.raises(errors.ContractError, match=f"more than {MOST_JSON} bytes"):
            ask()
    with pytest.raises(errors.AnswerLostError, match="more than"):
        client.update(ID, path="b")
    client.delete(ID)  # whose answer is its status
    assert len(streams) == 4
    assert all(stream.closed and stream.taken <= MOST_JSON + 65536 for stream in streams)

"""Bodies are read within bounds: bytes after decompression, and time as a whole."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import httpx
import pytest

from jobfs import errors
from jobfs.api import bodies
from jobfs.api.bodies import MOST_JSON, read_answer
from jobfs.api.failures import MismatchError

from .conftest import ID, Chunks, MakeClient


class Endless(httpx.SyncByteStream):
    """The same bytes for ever, and how many of them were taken; it may be closed in between."""

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


def pieces(body: bytes, size: int = 1) -> Chunks:
    """A body in pieces of a size."""
    return Chunks(*(body[place : place + size] for place in range(0, len(body), size)))


def answer(stream: httpx.SyncByteStream, status: int = 200, coding: str = "") -> httpx.Response:
    return httpx.Response(status, headers={"content-encoding": coding} if coding else {}, stream=stream)


def bomb(size: int) -> bytes:
    """`size` bytes of white space as gzip: a thousandth of them."""
    return gzip.compress(b" " * size, mtime=0)


def read(stream: httpx.SyncByteStream, coding: str = "", *, whole: bool = True) -> bytes:
    return read_answer(answer(stream, coding=coding), whole=whole)


@pytest.mark.parametrize("coding", ["", "gzip", "GZIP"])
def test_the_bound_counts_decompressed_bytes(monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    packed = gzip.compress(b"x" * 100_000, mtime=0) if coding else b"x" * 100_000
    assert read(pieces(packed), coding) == b"x" * 100_000
    monkeypatch.setattr(bodies, "MOST_JSON", 99_999)
    with pytest.raises(MismatchError, match="more than 99999 bytes"):
        read(pieces(packed), coding)


@pytest.mark.parametrize(
    ("packed", "coding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "gzip"),
        (gzip.compress(b"x", mtime=0) + b"more", "gzip"),
        (zlib.compress(b"{}"), "deflate"),  # which was not asked for
    ],
)
def test_a_body_that_is_badly_compressed_is_an_error(packed: bytes, coding: str) -> None:
    with pytest.raises(MismatchError):
        read(pieces(packed), coding)


def test_bytes_after_the_end_of_a_compressed_body_are_not_read() -> None:
    stream = Endless(gzip.compress(b"x", mtime=0))
    with pytest.raises(MismatchError):
        read(stream, "gzip")
    assert stream.taken < 100


@pytest.mark.parametrize(
    ("stream", "coding"),
    [
        (Endless(b"why " * 100), ""),
        (Endless(gzip.compress(b"why ", mtime=0)[:12]), "gzip"),
        (pieces(b"no gzip"), "gzip"),
    ],
)
def test_the_beginning_of_a_long_reason_is_enough(stream: httpx.SyncByteStream, coding: str) -> None:
    assert len(read(stream, coding, whole=False)) <= MOST_JSON + 65536


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_no_answer_takes_more_than_its_bound(make_client: MakeClient, coding: str) -> None:
    """vfs/semantics.md 5.8: a reply that does not match the contract is EIO."""
    chunk = bomb(64 << 20) if coding else b" " * 65536
    streams: list[Endless] = []

    def server(request: httpx.Request) -> httpx.Response:
        streams.append(Endless(chunk))
        return answer(streams[-1], coding=coding)

    client = make_client(server)
    for ask in (lambda: client.list_page(100, 0), client.instance):
        with pytest.raises(errors.ContractError, match=f"more than {MOST_JSON} bytes"):
            ask()
    with pytest.raises(errors.AnswerLostError, match="more than"):
        client.update(ID, path="b")
    assert len(streams) == 3
    assert all(stream.closed and stream.taken <= MOST_JSON + 65536 for stream in streams)


@pytest.mark.parametrize("coding", ["", "gzip", "broken"])
def test_the_answer_to_a_delete_is_its_status_however_long_it_is(
    make_client: MakeClient, coding: str
) -> None:
    stream = Endless(bomb(1 << 20) if coding == "gzip" else b" " * 1000)
    make_client(lambda request: answer(stream, coding=coding and "gzip")).delete(ID)
    assert stream.closed
    assert stream.taken <= MOST_JSON + 2000

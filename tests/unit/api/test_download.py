from __future__ import annotations

import gzip
from typing import Any

import httpx
import pytest

from jobfs import errors

from .conftest import ID, Chunks, MakeClient, Script, failure, one


def answer(status: int, *chunks: bytes | Exception, **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, headers=given, stream=Chunks(*chunks))


def test_a_whole_file_comes_as_it_is_and_not_compressed(make_client: MakeClient) -> None:
    script = Script(answer(200, b"hel", b"lo", content_length="5"))
    with make_client(script).download(ID) as download:
        assert (download.start, download.length, download.total) == (0, 5, 5)
        assert list(download.chunks()) == [b"hel", b"lo"]
    assert script.asked == [f"GET items/{ID}/download"]
    assert script.requests[0].headers["accept-encoding"] == "identity"
    assert "range" not in script.requests[0].headers


@pytest.mark.parametrize(
    ("start", "end", "header"), [(3, None, "bytes=3-"), (0, 4, "bytes=0-3"), (3, 4, "bytes=3-3")]
)
def test_a_range_is_asked_for_up_to_before_its_end(
    make_client: MakeClient, start: int, end: int | None, header: str
) -> None:
    last = 9 if end is None else end - 1
    script = Script(answer(206, b"x" * (last - start + 1), content_range=f"bytes {start}-{last}/10"))
    with make_client(script).download(ID, start, end) as download:
        assert (download.start, download.length, download.total) == (start, last - start + 1, 10)
        assert b"".join(download.chunks()) == b"x" * (last - start + 1)
    assert script.requests[0].headers["range"] == header


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        (answer(206, b"01", content_range="bytes 5-6/*"), (5, 2, None)),
        (answer(200, b"01"), (0, None, None)),
        # vfs/semantics.md 3: a Range request may be answered 200 instead of 206.
        (answer(200, b"01", content_length="2"), (0, 2, 2)),
        (answer(416, b"no", content_range="bytes */10"), (5, 0, None)),
    ],
)
def test_an_answer_to_a_range_says_which_bytes_it_has(
    make_client: MakeClient, answered: Any, expected: tuple[int, int | None, int | None]
) -> None:
    with make_client(Script(answered)).download(ID, 5, 7) as download:
        assert (download.start, download.length, download.total) == expected
        assert b"".join(download.chunks()) == (b"" if download.length == 0 else b"01")


@pytest.mark.parametrize(
    ("item", "error"), [(one(), errors.ContractError), (failure(404, "Not found"), errors.NotFoundError)]
)
def test_missing_bytes_are_not_taken_for_a_missing_item(
    make_client: MakeClient, item: Any, error: type[Exception]
) -> None:
    """vfs/semantics.md 5.14: a client that is told that an item is gone forgets it."""
    script = Script(failure(404, "File not found"), item)
    with pytest.raises(error), make_client(script).download(ID):
        pass
    assert script.asked == [f"GET items/{ID}/download", f"GET items/{ID}"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {}),
        (206, {"content_range": "bytes 0-4/10"}),
        (206, {"content_range": "items 5-9/10"}),
        (200, {"content_encoding": "br"}),
        (206, {"content_range": "bytes 5-9/10", "content_encoding": "gzip"}),
        (204, {}),
    ],
)
def test_a_download_of_the_wrong_length_or_fields_does_not_match_the_contract(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str]
) -> None:
    """vfs/semantics.md 5.8: wrong length or fields are EIO, and a log line names the endpoint and the mismatch."""
    client = make_client(Script(answer(status, b"x" * 5, **headers)))
    with pytest.raises(errors.ContractError, match="download"), client.download(ID, 5) as body:
        list(body.chunks())
    assert f"download '{ID}': the reply does not match" in caplog.text


def test_a_file_that_a_gateway_compresses_all_the_same_is_read(make_client: MakeClient) -> None:
    """Its Content-Length counts what is on the wire, and says nothing of the file."""
    packed = gzip.compress(b"hello" * 100_000, mtime=0)
    script = Script(answer(200, packed, content_encoding="gzip", content_length=str(len(packed))))
    with make_client(script).download(ID) as download:
        assert (download.start, download.length, download.total) == (0, None, None)
        pieces = list(download.chunks())
    assert b"".join(pieces) == b"hello" * 100_000
    assert max(map(len, pieces)) <= 1 << 16


@pytest.mark.parametrize("trouble", [httpx.ReadError("reset"), httpx.ReadTimeout("")])
def test_a_body_that_breaks_off_is_an_error_and_not_asked_for_again(
    make_client: MakeClient, trouble: Exception
) -> None:
    script = Script(answer(200, b"hel", trouble, content_length="5"))
    got: list[bytes] = []
    with make_client(script).download(ID) as download, pytest.raises(errors.UnavailableError) as caught:
        got.extend(download.chunks())
    assert (got, type(caught.value)) == ([b"hel"], errors.UnavailableError)
    assert len(script.requests) == 1


def test_leaving_a_download_closes_it(make_client: MakeClient) -> None:
    stream = Chunks(b"hel", b"lo")
    client = make_client(lambda request: httpx.Response(200, headers={"content-length": "5"}, stream=stream))
    with client.download(ID) as download:
        next(download.chunks())
        assert not stream.closed
    assert stream.closed

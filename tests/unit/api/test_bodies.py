from __future__ import annotations

import base64
import errno
import json
import tracemalloc
from collections.abc import Callable
from email import message_from_bytes
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.api.bodies import Body, json_body, multipart_create
from jobfs.errors import FsError

Make = Callable[[dict[str, str], tuple[Path, int] | None], Body]

FIELDS = {"type": "workspaceItemFile", "path": "dir/a.txt", "permission": "readWrite"}


def sent(body: Body) -> bytes:
    """The body's bytes, which are as many as it says, each time it is sent."""
    data = b"".join(body)
    assert len(data) == body.length
    assert b"".join(body) == data
    return data


def parts(body: Body) -> dict[str, tuple[str | None, str, bytes]]:
    """Name to (filename, content type, bytes) of a multipart body, by another parser than a server's."""
    message = message_from_bytes(b"Content-Type: " + body.content_type.encode() + b"\r\n\r\n" + sent(body))
    found = {}
    for part in message.get_payload():
        assert not isinstance(part, str)
        name = part.get_param("name", header="content-disposition")
        found[str(name)] = (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
    return found  # type: ignore[return-value]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"hello")
    return path


def test_a_multipart_create_has_its_fields_and_the_file(source: Path) -> None:
    body = multipart_create(FIELDS, (source, 5))
    assert len(list(body)) == 1, "each piece is a write, and work for the server"
    found = parts(body)
    assert {name: value[2] for name, value in found.items()} == {
        **{name: value.encode() for name, value in FIELDS.items()},
        "file": b"hello",
    }
    assert found["file"][:2] == ("a.txt", "text/plain")


@pytest.mark.parametrize(
    ("name", "told"),
    [('say "hi".txt', "say %22hi%22.txt"), ("a\r\nb", "a%0D%0Ab"), ("back\\slash", "back\\slash")],
)
def test_a_file_name_can_not_break_out_of_its_header(source: Path, name: str, told: str) -> None:
    head = sent(multipart_create({**FIELDS, "path": f"dir/{name}"}, (source, 5)))
    assert f'; filename="{told}"\r\nContent-Type: '.encode() in head


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("x.json", "application/json"),
        ("x.tar.gz", "application/octet-stream"),
        ("x", "application/octet-stream"),
    ],
)
def test_a_file_part_says_what_its_name_promises(source: Path, name: str, mime_type: str) -> None:
    assert parts(multipart_create({**FIELDS, "path": name}, (source, 5)))["file"][1] == mime_type


@given(content=st.binary(max_size=50))
def test_a_json_body_carries_the_content_in_base64(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("source") / "x"
    path.write_bytes(content)
    body = json_body({**FIELDS, "path": 'ünï "q"\\'}, (path, len(content)))
    told = json.loads(sent(body))
    assert base64.b64decode(told.pop("content"), validate=True) == content
    assert told == {**FIELDS, "path": 'ünï "q"\\'}


@pytest.mark.parametrize("make", [multipart_create, json_body])
def test_a_large_file_is_streamed_and_never_whole_in_memory(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(24 << 20)
    tracemalloc.start()
    try:
        body = make(FIELDS, (path, 24 << 20))
        assert sum(map(len, body)) == body.length
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [json_body, multipart_create])
def test_only_as_many_bytes_are_sent_as_were_promised(source: Path, make: Make) -> None:
    whole, begun = sent(make(FIELDS, (source, 5))), sent(make(FIELDS, (source, 3)))
    for data, here in ((whole, True), (begun, False)):
        assert (b"hello" in data or base64.b64encode(b"hello") in data) is here


@pytest.mark.parametrize(("name", "number"), [("source", errno.EIO), ("missing", errno.ENOENT)])
@pytest.mark.parametrize("make", [json_body, multipart_create])
def test_a_source_that_is_too_short_or_missing_is_an_error_of_its_own(
    source: Path, make: Make, name: str, number: int
) -> None:
    with pytest.raises(FsError) as caught:
        b"".join(make(FIELDS, (source.parent / name, 6)))
    assert caught.value.errno == number


@pytest.mark.parametrize("make", [json_body, multipart_create])
def test_the_progress_of_an_upload_and_the_time_of_each_piece_are_told(tmp_path: Path, make: Make) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100_000)
    body, told, took = make(FIELDS, (tmp_path / "big", 100_000)), list[float](), list[float]()
    body.part, body.moved = told.append, took.append
    list(body)
    assert told == sorted(told)
    assert (told[0], told[-1], 0 < told[1] < 1) == (0.0, 1.0, True)
    assert len(took) == len(told)
    assert all(seconds > 0 for seconds in took)

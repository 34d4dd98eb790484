"""The two forms of a create's body (api/wire.md), and what is wrong with other bodies."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from jobfs.emulator import Server

from .conftest import Wire

CONTENT = base64.b64encode(b"bytes").decode()


def contents(server: Server) -> int:
    return sum(len(names) for _, _, names in os.walk(server.directory / "content"))


def test_json_makes_files_and_directories(wire: Wire, server: Server) -> None:
    for body in (
        {"type": "workspaceItemDirectory", "path": "d", "permission": "readWrite"},
        {"type": "workspaceItemFile", "path": "d/f", "permission": "readOnly", "content": CONTENT},
        {"path": "/g", "content": CONTENT},
    ):
        assert wire.post("/items/", json=body).status_code == 200
    assert server.store.tree() == {"d": None, "d/f": b"bytes", "g": b"bytes"}


@pytest.mark.parametrize(
    "body",
    [
        {"path": "f"},
        {"path": "f", "content": "not base64!"},
        {"content": CONTENT},
        {"path": "f", "content": CONTENT, "type": "symlink"},
        {"path": "f", "content": CONTENT, "permission": "rw"},
        [],
    ],
)
def test_json_of_the_wrong_form_is_422_and_leaves_nothing(wire: Wire, server: Server, body: Any) -> None:
    assert wire.post("/items/", json=body).status_code == 422
    assert (server.store.items(), contents(server)) == ([], 0)


@pytest.mark.parametrize(
    ("fields", "content"),
    [({"type": "symlink"}, b"x"), ({"permission": "rw"}, b"x"), ({"type": "workspaceItemFile"}, None)],
)
def test_multipart_of_the_wrong_form_is_422_and_leaves_nothing(
    wire: Wire, server: Server, fields: dict[str, str], content: bytes | None
) -> None:
    assert wire.create("f", content, **fields).status_code == 422
    assert (server.store.items(), contents(server)) == ([], 0)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"no boundary here"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="path"\r\n\r\nf'),
    ],
)
def test_broken_multipart_is_422(wire: Wire, header: str, body: bytes) -> None:
    assert wire.post("/items/", content=body, headers={"content-type": header}).status_code == 422


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


WHOLE = [part("type", b"file"), part("path", b"f"), part("file", b"1", '; filename="f"')]


@pytest.mark.parametrize(
    "parts",
    [
        [*WHOLE, part("file", b"2", '; filename="g"')],
        [*WHOLE, part("path", b"g")],
        [*WHOLE[:2], part("file", b"1")],
        [part("type", b"directory"), WHOLE[1], part("file", b"1")],
    ],
)
def test_a_second_part_or_a_file_without_a_filename_is_422(
    wire: Wire, server: Server, parts: list[bytes]
) -> None:
    header = {"content-type": "multipart/form-data; boundary=x"}
    assert wire.post("/items/", content=b"".join(WHOLE) + b"--x--\r\n", headers=header).status_code == 200
    server.store.clear()
    answer = wire.post("/items/", content=b"".join(parts) + b"--x--\r\n", headers=header)
    assert (answer.status_code, answer.json()["reason"][0]["path"][0]) == (422, "body")
    assert (server.store.items(), contents(server)) == ([], 0)


@pytest.mark.parametrize(
    "text",
    [
        b'{"path": "f", "content": "", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"path": "f", "content": "", "x": NaN}',
        b'{"path": "\xff", "content": ""}',
    ],
)
def test_json_that_no_server_reads_is_422(wire: Wire, server: Server, text: bytes) -> None:
    header = {"content-type": "application/json"}
    item = server.store.write("g", "")
    for path in ("/items/", f"/items/{item.id}"):
        answer = wire.post(path, content=text, headers=header)
        assert (answer.status_code, answer.json()["error"]) == (422, "Validation Failed")
    assert list(server.store.tree()) == ["g"]


@pytest.mark.parametrize("header", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_an_update_is_json_and_nothing_else(wire: Wire, server: Server, header: str) -> None:
    item = server.store.write("f", "")
    answer = wire.post(f"/items/{item.id}", content=b'{"path": "g"}', headers={"content-type": header})
    assert (answer.status_code, list(server.store.tree())) == (422, ["f"])
    header = "application/json; charset=utf-8"
    answer = wire.post(f"/items/{item.id}", content=b'{"path": "g"}', headers={"content-type": header})
    assert (answer.status_code, list(server.store.tree())) == (200, ["g"])


@pytest.mark.parametrize("status", [415, 422])
@pytest.mark.parametrize("accepted", ["multipart", "json"])
def test_the_form_that_is_not_accepted_gets_the_status_of_the_switch(
    wire: Wire, server: Server, accepted: str, status: int
) -> None:
    server.set(create_encodings=accepted, other_encoding=status)
    answers = {"multipart": wire.create("a"), "json": wire.post("/items/", json={"path": "b", "content": ""})}
    assert {form: answer.status_code for form, answer in answers.items()} == {
        form: 200 if form == accepted else status for form in answers
    }


def test_only_the_servers_own_spelling_may_be_accepted(wire: Wire, server: Server) -> None:
    server.set(input_spelling="own", path_style="slash", type_spelling="short")
    assert wire.create("/f", type="workspaceItemFile").status_code == 422
    assert wire.create("f", type="file").json()["reason"] == "Invalid path"
    assert wire.create("/f", type="file").status_code == 200
    assert (wire.found("f"), wire.found("/f")) == ([], ["/f"])
    server.set(input_spelling="both")
    assert wire.create("g", type="workspaceItemFile").status_code == 200

"""The two forms of a create's body (api/wire.md), and what is wrong with other bodies."""

from __future__ import annotations

import base64
import os

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


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def multipart(*parts: bytes) -> tuple[str, bytes]:
    return "multipart/form-data; boundary=x", b"".join(parts) + b"--x--\r\n"


TYPE, PATH, FILE = part("type", b"file"), part("path", b"f"), part("file", b"1", '; filename="f"')
WRONG = [
    ("application/json", b'{"path": "f"}'),
    ("application/json", b'{"path": "f", "content": "not base64!"}'),
    ("application/json", b'{"content": ""}'),
    ("application/json", b'{"path": "f", "content": "", "type": "symlink"}'),
    ("application/json", b'{"path": "f", "content": "", "x": NaN}'),
    ("application/json", b'{"path": "f", "content": "", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("multipart/form-data", b""),
    ("multipart/form-data; boundary=x", b"no boundary here"),
    ("multipart/form-data; boundary=x", PATH[:-2]),
    multipart(part("type", b"symlink"), PATH, FILE),
    multipart(TYPE, PATH, FILE, part("permission", b"rw")),
    multipart(TYPE, PATH),
    multipart(TYPE, PATH, FILE, FILE),
    multipart(TYPE, PATH, FILE, part("path", b"g")),
    multipart(TYPE, PATH, part("file", b"1")),
]


@pytest.mark.parametrize(("header", "body"), WRONG, ids=range(len(WRONG)))
def test_a_create_of_the_wrong_form_is_422_and_leaves_nothing(
    wire: Wire, server: Server, header: str, body: bytes
) -> None:
    answer = wire.post("/items/", content=body, headers={"content-type": header})
    assert (answer.status_code, answer.json()["error"]) == (422, "Validation Failed")
    assert (server.store.items(), contents(server)) == ([], 0)
    header, body = multipart(TYPE, PATH, FILE)
    assert wire.post("/items/", content=body, headers={"content-type": header}).status_code == 200


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

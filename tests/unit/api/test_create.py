from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobfs import errors
from jobfs.api.client import Client
from jobfs.names import Role, hidden_path
from jobfs.nodes import Item, Permission

from .conftest import MakeClient, Script, failure, many, one, wire_item

RW = Permission.READ_WRITE
HIDDEN = hidden_path("d", "f" * 12, "0" * 16, Role.STAGED)

Create = Callable[[Client], Item]


def forms(script: Script) -> list[tuple[str, str]]:
    """Encoding and type name of every request that has a body."""
    return [
        (
            "json" if request.headers["content-type"] == "application/json" else "multipart",
            "long" if b"workspaceItem" in body else "short",
        )
        for request, body in zip(script.requests, script.bodies, strict=True)
        if body
    ]


@pytest.fixture
def create(tmp_path: Path) -> Create:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    return lambda client: client.create_file("a.txt", source, 5, RW)


def seen(
    make_client: MakeClient, *answers: Any, path: str = "a.txt", **options: Any
) -> tuple[Client, Script]:
    """A client that has seen how the server writes an item, and the script of its further answers and requests."""
    script = Script(many(wire_item(path)), *answers)
    client = make_client(script, **options)
    client.list_page(100, 0)
    script.requests.clear()
    script.bodies.clear()
    return client, script


@pytest.mark.parametrize("spelling", ["long", "short"])
def test_multipart_comes_first_in_the_spelling_of_the_servers_own_items(
    make_client: MakeClient, create: Create, spelling: str
) -> None:
    shown = {} if spelling == "long" else {"type": "file"}
    script = Script(many(wire_item(**shown)), one(**shown))
    client = make_client(script)
    client.list_page(100, 0)
    create(client)
    assert forms(script) == [("multipart", spelling)]
    assert script.requests[1].headers["content-length"] == str(len(script.bodies[1]))
    assert "transfer-encoding" not in script.requests[1].headers


@pytest.mark.parametrize("refusal", [(415,), (422,), (400, "Malformed JSON"), (400, "Invalid path")])
def test_the_other_encoding_is_tried_and_remembered(
    make_client: MakeClient, create: Create, refusal: tuple[Any, ...]
) -> None:
    """A server that reads other media types as an empty object finds no path in it."""

    def server(request: httpx.Request) -> httpx.Response:
        json = request.headers.get("content-type") == "application/json"
        return one() if json else failure(*refusal)

    client, script = seen(make_client, server)
    create(client)
    create(client)
    assert forms(script) == [("multipart", "long"), ("json", "long"), ("json", "long")]


@pytest.mark.parametrize("pinned", ["multipart", "json"])
def test_a_pinned_encoding_is_never_left(make_client: MakeClient, create: Create, pinned: str) -> None:
    client, script = seen(make_client, failure(422), create_encoding=pinned)
    with pytest.raises(errors.InvalidRequestError):
        create(client)
    assert forms(script) == [(pinned, "long"), (pinned, "short")]


def test_the_error_is_that_of_the_accepted_form_and_no_form_is_learned(
    make_client: MakeClient, create: Create
) -> None:
    """A 415 only says that the form was wrong; the 422 to the other form is the server's answer."""
    refusals = (failure(422, reason) for reason in ("too long", "type", "type"))
    client, script = seen(make_client, failure(415, "media type"), *refusals, one())
    with pytest.raises(errors.InvalidRequestError, match="too long"):
        create(client)
    create(client)
    every = [("multipart", "long"), ("json", "long"), ("multipart", "short"), ("json", "short")]
    assert forms(script) == [*every, ("multipart", "long")]


@pytest.mark.parametrize("status", [400, 415, 422])
def test_once_a_form_has_worked_a_refusal_is_the_answer(
    make_client: MakeClient, create: Create, status: int
) -> None:
    script = Script(one(), failure(status, "No more than ten files"), many(wire_item(size=3)))
    client = make_client(script)
    create(client)
    with pytest.raises(errors.ApiError, match="ten files"):
        create(client)
    assert forms(script) == [("multipart", "long")] * 2


@pytest.mark.parametrize(
    ("shown", "mismatch"),
    [
        ({"path": "A.txt"}, "path is 'A.txt', not 'a.txt'"),
        ({"size": 4}, "size is '4', not '5'"),
        ({"type": "directory"}, "kind is 'directory', not 'file'"),
        ({"path": "/a.txt", "size": None}, ""),
    ],
)
def test_a_create_that_is_answered_with_something_else_is_not_believed(
    make_client: MakeClient, create: Create, shown: dict[str, Any], mismatch: str
) -> None:
    """vfs/semantics.md 5; nothing is deleted at a name that may be the job's."""
    script = Script(one(**({"path": "a.txt"} | shown)))
    if not mismatch:
        assert create(make_client(script)).path == "a.txt"
        return
    with pytest.raises(errors.WrongAnswerError, match=mismatch):
        create(make_client(script))
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("asked", "shown", "kept"),
    [
        (f"{HIDDEN}u\u0308", f"{HIDDEN}\u00fc", r"'du\\u0308' as 'd\\xfc'"),
        (f"{HIDDEN}READ", f"{HIDDEN}read", "'dREAD' as 'dread'"),
        (f"{HIDDEN}a ", f"{HIDDEN}a", "'da ' as 'da'"),
        (f"{HIDDEN}a:b", f"{HIDDEN}a_b", "'da:b' as 'da_b'"),
        (f"Docs/{HIDDEN}", f"docs/{HIDDEN}", "'Docs' as 'docs'"),
    ],
)
def test_a_hidden_item_that_is_kept_under_another_form_of_its_name_is_taken_away_and_refused(
    make_client: MakeClient, asked: str, shown: str, kept: str
) -> None:
    """save/protocol.md R6: this server changes names; the transaction in the name shows that it is ours."""
    script = Script(one(shown, type="directory"), httpx.Response(204))
    with pytest.raises(errors.BadRequestError, match=f"the server keeps the name {kept}") as caught:
        make_client(script).create_directory(asked, RW)
    assert caught.value.errno == errno.EIO
    assert [request.method for request in script.requests] == ["POST", "DELETE"]


@pytest.mark.parametrize("shown", ["d", HIDDEN.replace("0" * 16, "1" * 16), f"elsewhere/{HIDDEN}"])
def test_an_item_that_may_not_be_ours_is_left_alone(make_client: MakeClient, shown: str) -> None:
    script = Script(one(shown, type="directory"))
    with pytest.raises(errors.WrongAnswerError):
        make_client(script).create_directory(HIDDEN, RW)
    assert len(script.requests) == 1


def test_a_refusal_for_an_existing_item_is_not_about_the_form(
    make_client: MakeClient, create: Create
) -> None:
    client, script = seen(make_client, failure(400, "Path already exists"), one())
    with pytest.raises(errors.PathExistsError):
        create(client)
    assert len(script.requests) == 1


def test_directories_may_need_another_form_than_files(make_client: MakeClient, create: Create) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        file = b"hello" in request.content or b"aGVsbG8=" in request.content
        json = request.headers["content-type"] == "application/json"
        kind = "File" if file else "Directory"
        return one("a.txt" if file else "d", type=f"workspaceItem{kind}") if file == json else failure(422)

    script = Script(server)
    client = make_client(script)
    for _ in range(2):
        create(client)
        client.create_directory("d", RW)
    assert forms(script)[-2:] == [("json", "long"), ("multipart", "long")]


@pytest.mark.parametrize("status", [401, 403, 404, 405, 409, 413, 507])
def test_a_refusal_that_is_not_about_the_form_is_final(
    make_client: MakeClient, create: Create, status: int
) -> None:
    """Other forms and path styles are tried after 400, 415 and 422 only: the same bytes are not sent eight times."""
    script = Script(lambda request: many() if request.method == "GET" else failure(status))
    with pytest.raises(errors.ApiError) as caught:
        create(make_client(script))
    assert caught.value.status == status
    assert len(forms(script)) == 1


def test_no_other_form_is_tried_after_a_lost_answer(make_client: MakeClient, create: Create) -> None:
    script = Script(failure(422), failure(500))
    with pytest.raises(errors.AnswerLostError):
        create(make_client(script))
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    "refusal", [failure(400, "must start with a slash"), failure(422, [{"path": ["path"]}])]
)
def test_the_other_path_style_is_tried_however_the_first_is_refused(
    make_client: MakeClient, create: Create, refusal: httpx.Response
) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return many()
        if b"\r\n/a.txt\r\n" in request.content:
            return one("/a.txt")
        return httpx.Response(refusal.status_code, content=refusal.content)

    assert create(make_client(Script(server))).path == "a.txt"


def test_once_an_item_was_seen_an_invalid_path_is_invalid(make_client: MakeClient, create: Create) -> None:
    client, script = seen(make_client, failure(400, "Invalid path"), path="/x")
    with pytest.raises(errors.InvalidPathError):
        create(client)
    assert len(forms(script)) == len(set(forms(script))) == 4
    assert all(b"/a.txt" in body for body in script.bodies)

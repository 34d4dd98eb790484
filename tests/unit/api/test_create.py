"""How files and directories are created: the form of the request, the style of the path, and what an answer must show."""

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


def forms(script: Script) -> list[str]:
    """Encoding and type name of every request that has a body."""
    return [
        ("json" if request.headers["content-type"] == "application/json" else "multipart")
        + (" long" if b"workspaceItem" in body else " short")
        for request, body in zip(script.requests, script.bodies, strict=True)
        if body
    ]


@pytest.fixture
def create(tmp_path: Path) -> Create:
    source = tmp_path / "source"
    source.write_bytes(b"hello")
    return lambda client: client.create_file("a.txt", source, 5, RW)


Seen = Callable[..., tuple[Client, Script]]


@pytest.fixture
def seen(make_client: MakeClient) -> Seen:
    """A client that has seen how the server writes an item, and the script of its further answers and requests."""

    def seen(*answers: Any, shown: dict[str, str] | None = None, **options: Any) -> tuple[Client, Script]:
        script = Script(many(wire_item(**(shown or {}))), *answers)
        client = make_client(script, **options)
        client.list_page(100, 0)
        script.requests.clear()
        script.bodies.clear()
        return client, script

    return seen


@pytest.mark.parametrize("spelling", ["long", "short"])
def test_multipart_comes_first_in_the_spelling_of_the_servers_own_items(
    seen: Seen, create: Create, spelling: str
) -> None:
    client, script = seen(one(), shown={} if spelling == "long" else {"type": "file"})
    create(client)
    assert forms(script) == [f"multipart {spelling}"]
    assert script.requests[0].headers["content-length"] == str(len(script.bodies[0]))
    assert "transfer-encoding" not in script.requests[0].headers


@pytest.mark.parametrize("refusal", [(415,), (422,), (400, "Malformed JSON"), (400, "Invalid path")])
def test_the_other_encoding_is_tried_and_remembered_for_files_and_directories_apart(
    seen: Seen, create: Create, refusal: tuple[Any, ...]
) -> None:
    """A server that reads other media types as an empty object finds no path in it."""

    def server(request: httpx.Request) -> httpx.Response:
        json = request.headers.get("content-type") == "application/json"
        directory = b"Directory" in request.content
        if json == directory:
            return failure(*refusal)
        return one("d", type="directory") if directory else one()

    client, script = seen(server)
    for _ in range(2):
        create(client)
        client.create_directory("d", RW)
    assert forms(script) == [
        "multipart long", "json long", "json long", "multipart long", "json long", "multipart long",
    ]  # fmt: skip


@pytest.mark.parametrize("pinned", ["multipart", "json"])
def test_a_pinned_encoding_is_never_left(seen: Seen, create: Create, pinned: str) -> None:
    client, script = seen(failure(422), create_encoding=pinned)
    with pytest.raises(errors.InvalidRequestError):
        create(client)
    assert forms(script) == [f"{pinned} long", f"{pinned} short"]


def test_the_error_is_that_of_the_accepted_form_and_no_form_is_learned(seen: Seen, create: Create) -> None:
    """A 415 only says that the form was wrong; the 422 to the other form is the server's answer."""
    refusals = (failure(422, reason) for reason in ("too long", "type", "type"))
    client, script = seen(failure(415, "media type"), *refusals, one())
    with pytest.raises(errors.InvalidRequestError, match="too long"):
        create(client)
    create(client)
    every = ["multipart long", "json long", "multipart short", "json short"]
    assert forms(script) == [*every, "multipart long"]


@pytest.mark.parametrize("status", [400, 415, 422])
def test_once_a_form_has_worked_a_refusal_is_the_answer(
    make_client: MakeClient, create: Create, status: int
) -> None:
    script = Script(one(), failure(status, "No more than ten files"))
    client = make_client(script)
    create(client)
    with pytest.raises(errors.ApiError, match="ten files"):
        create(client)
    assert forms(script) == ["multipart long"] * 2


@pytest.mark.parametrize(
    "refusal", [(status, "no") for status in (401, 403, 404, 405, 413, 507)] + [(400, "Path already exists")]
)
def test_a_refusal_that_is_not_about_the_form_is_final(
    make_client: MakeClient, create: Create, refusal: tuple[int, str]
) -> None:
    """Other forms and path styles are tried after 400, 415 and 422 only: the same bytes are not sent eight times."""
    script = Script(failure(*refusal))
    with pytest.raises(errors.ApiError) as caught:
        create(make_client(script))
    assert caught.value.status == refusal[0]
    assert len(script.requests) == 1


def test_no_other_form_is_tried_after_a_lost_answer(make_client: MakeClient, create: Create) -> None:
    script = Script(failure(422), failure(500))
    with pytest.raises(errors.AnswerLostError):
        create(make_client(script))
    assert len(script.requests) == 2


@pytest.mark.parametrize("refusal", [(400, "must start with a slash"), (422, [{"path": ["path"]}])])
def test_the_other_path_style_is_tried_until_an_item_was_seen(
    make_client: MakeClient, seen: Seen, create: Create, refusal: tuple[int, Any]
) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        return one("/a.txt") if b"\r\n/a.txt\r\n" in request.content else failure(*refusal)

    assert create(make_client(Script(server))).path == "a.txt"
    client, script = seen(failure(*refusal), shown={"path": "/x"})
    with pytest.raises(errors.ApiError):
        create(client)
    assert len(forms(script)) == len(set(forms(script))) == 4
    assert all(b"/a.txt" in body for body in script.bodies)


# What an answer must show


@pytest.mark.parametrize(
    ("shown", "mismatch"),
    [
        ({"path": "A.txt"}, "path is 'A.txt', not 'a.txt'"),
        ({"size": 4}, "size is '4', not '5'"),
        ({"type": "directory"}, "kind is 'directory', not 'file'"),
    ],
)
def test_a_create_that_is_answered_with_something_else_is_not_believed(
    make_client: MakeClient, create: Create, shown: dict[str, Any], mismatch: str
) -> None:
    """vfs/semantics.md 5; nothing is deleted at a name that may be the job's."""
    script = Script(one(**shown))
    with pytest.raises(errors.WrongAnswerError, match=mismatch):
        create(make_client(script))
    assert len(script.requests) == 1
    assert create(make_client(Script(one(path="/a.txt", size=None)))).path == "a.txt"


@pytest.mark.parametrize(
    ("asked", "shown", "kept"),
    [
        (f"{HIDDEN}u\u0308", f"{HIDDEN}\u00fc", r"'du\\u0308' as 'd\\xfc'"),
        (f"{HIDDEN}READ", f"{HIDDEN}read", "'dREAD' as 'dread'"),
        (f"{HIDDEN}a:b", f"{HIDDEN}a_b", "'da:b' as 'da_b'"),
        (f"Docs/{HIDDEN}", f"docs/{HIDDEN}", "'Docs' as 'docs'"),
        ("d", "D", ""),
        (HIDDEN, HIDDEN.replace("0" * 16, "1" * 16), ""),
        (HIDDEN, f"elsewhere/{HIDDEN}", ""),
    ],
)
def test_a_hidden_item_that_is_kept_under_another_form_of_its_name_is_taken_away_and_refused(
    make_client: MakeClient, asked: str, shown: str, kept: str
) -> None:
    """save/protocol.md R6: this server changes names; the transaction in the name shows that it is ours."""
    script = Script(one(shown, type="directory"), httpx.Response(204))
    error = errors.BadRequestError if kept else errors.WrongAnswerError
    told = f"the server keeps the name {kept}" if kept else "path is"
    with pytest.raises(error, match=told) as caught:
        make_client(script).create_directory(asked, RW)
    assert caught.value.errno == errno.EIO
    assert [request.method for request in script.requests] == ["POST", "DELETE"][: 1 + bool(kept)]

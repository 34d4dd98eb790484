from __future__ import annotations

import errno
import gzip
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from tests.support.items import TID, hidden

from jobfs import errors
from jobfs.api.client import Client
from jobfs.api.connection_queue import LARGE
from jobfs.api.deadline import limit_time
from jobfs.api.failures import RequestInfo
from jobfs.names import Role
from jobfs.nodes import Lifecycle, Permission

from .world import ID, Chunks, Create, Make, Script, failure, many, one, wire_item

RW = Permission.READ_WRITE
OTHER = "other0000000000000000001"


def test_find_is_filtered_to_the_exact_path_and_can_return_several(make: Make) -> None:
    """vfs/semantics.md 1.1: a point lookup is find, its answer filtered to the exact path."""
    script = Script(many(*map(wire_item, ("a/b", "/a/b", "a/b/c", "a/bb", "x/a/b", "A/b"))))
    assert [item.path for item in make(script).find("a/b")] == ["a/b", "a/b"]


PATTERNS = [
    "pages/[id].tsx", "a{b}", "a\\b", "[*]?", "notes (1).md", "!important", "#draft#",
    "a b/ü&c=d?e#f%20+;.txt",
]  # fmt: skip


@pytest.mark.parametrize("path", PATTERNS)
def test_find_works_for_names_that_a_server_takes_for_patterns(make: Make, path: str) -> None:
    """vfs/semantics.md 1.13: "not there" only if the server says so of this very name; one client calls it a pattern."""
    pieces = {"[": "(?!)", "{": "(?!)", "(": "(?!)", "\\": "(?!)", "*": ".*", "?": "."}

    def server(request: httpx.Request) -> httpx.Response:
        asked = request.url.params["path"]
        assert len(request.url.params) == 1
        first = "(?!)" if asked.lstrip("/").startswith(("!", "#")) else ""
        pattern = first + "".join(pieces.get(char, re.escape(char)) for char in asked)
        there = ["pages/sid].tsx", path, path + "2"]
        return many(*(wire_item(name) for name in there if re.fullmatch(pattern, name)))

    client = make(Script(server))
    client.find(path)
    assert [item.path for item in client.find(path)] == [path]


def test_find_uses_both_path_styles_until_an_item_was_seen(make: Make) -> None:
    """vfs/semantics.md 1: "not there" only when the server said so, and it must not be a matter of style."""
    script = Script(many(), many(wire_item("/a")), many())
    client = make(script)
    assert [item.path for item in client.find("a")] == ["a"]
    assert client.find("b") == [], "a plain name that is not there is asked for once"
    assert script.asked == ["GET items/find?path=a", "GET items/find?path=%2Fa", "GET items/find?path=%2Fb"]


GONE = failure(404, "Expert job or workspace instance not found")
INSTANCE = httpx.Response(200, json={"data": {"workspaceInstance": {"countItems": 0}}})


@pytest.mark.parametrize("has_items", [True, False])
def test_a_404_to_a_find_means_that_nothing_is_there(make: Make, has_items: bool) -> None:
    """vfs/semantics.md 5.17: an empty list is what a server may show of a job that is gone, so the job must be there."""
    after = [many(wire_item("b"))] if has_items else [many(), INSTANCE]
    script = Script(failure(404, "Workspace item not found"), many(), *after)
    assert make(script).find("a") == []
    asked = ["GET items/find?path=a", "GET items/find?path=%2Fa", "GET items/?take=1&skip=0", "GET "]
    assert script.asked == asked[: 3 if has_items else 4]


@pytest.mark.parametrize("answers", [[GONE], [GONE, many(), many(), GONE]], ids=["each", "not the list"])
def test_a_404_to_a_find_for_a_job_that_is_gone_is_no_answer(
    make: Make, answers: list[httpx.Response]
) -> None:
    """vfs/semantics.md 1.12, 1.15, 5.17."""
    client = make(Script(*answers))
    with pytest.raises(errors.UnavailableError, match="workspace instance not found") as caught:
        client.find("a")
    assert (caught.value.errno, caught.value.status) == (errno.EIO, 404)


def test_the_404_of_a_gateway_to_a_find_is_no_answer(make: Make) -> None:
    """vfs/semantics.md 5.14: nor does it cost a request for the list."""
    script = Script(httpx.Response(404, text="no healthy upstream"))
    client = make(script, timeout=0.05)
    with pytest.raises(errors.UnavailableError, match="from a gateway"):
        client.find("a")
    assert {*script.asked} == {"GET items/find?path=a"}


def test_an_update_sends_only_the_given_fields(make: Make) -> None:
    sent: dict[str, Any] = {"permission": "readWrite", "lifecycle": "expertJob"}
    script = Script(one(**sent))
    make(script).update(ID, **sent)
    assert script.asked == [f"POST items/{ID}"]
    assert json.loads(script.bodies[0]) == sent
    assert script.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("shown", "mismatch"), [
    ({"path": "New"}, "path is 'New', not 'new'"),
    ({"permission": "readWrite"}, "permission is 'readWrite', not 'readOnly'"),
    ({"lifecycle": "expertJob"}, "lifecycle is 'expertJob', not 'application'"),
    ({"id": "b" * 24}, "id is"),
])  # fmt: skip
def test_an_update_whose_answer_shows_something_else_is_not_trusted(
    make: Make, caplog: pytest.LogCaptureFixture, shown: dict[str, Any], mismatch: str
) -> None:
    """vfs/semantics.md 5: a reply that does not match what was asked for."""
    wire = {"path": "new", "permission": "readOnly", "lifecycle": "application"} | shown
    client = make(Script(one(**wire)))

    with pytest.raises(errors.WrongAnswerError, match=mismatch) as caught:
        client.update(ID, path="new", permission=Permission.READ_ONLY, lifecycle=Lifecycle.APPLICATION)
    assert caught.value.errno == errno.EIO
    assert f"renaming an item to new: the reply does not match the API reference: {mismatch}" in caplog.text


def test_no_error_message_contains_a_hidden_name(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """Messages name the file, not the hidden path that its bytes have; so do messages of the server."""
    path = hidden("dir/notes.md", Role.STAGED)
    client = make(Script(*[failure(422, f"{path}, {path}: no")] * 2, one(path, type="workspaceItemFile")))
    with pytest.raises(
        errors.InvalidRequestError,
        match=r"^renaming an item to dir/notes\.md: .*dir/notes\.md, dir/notes\.md: no",
    ):
        client.update(ID, path=path)
    with pytest.raises(errors.WrongAnswerError, match=r"path is 'dir/notes\.md', not 'new'"):
        client.update(ID, path="new")
    assert ".jobfs-" not in caplog.text + str(RequestInfo("uploading", "POST", "/x", path))


HIDDEN_F4 = hidden("f4.txt", Role.STAGED)


@pytest.mark.parametrize("asked", ["f4.txt", HIDDEN_F4.replace(TID, "3" * 16)])
def test_a_move_that_was_acknowledged_and_not_done_is_reported(
    make: Make, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    """Hidden names are shown as their file's: "path is 'f4.txt', not 'f4.txt'" would explain nothing."""
    with pytest.raises(errors.WrongAnswerError) as caught:
        make(Script(one(HIDDEN_F4))).update(ID, path=asked)
    message = "renaming an item to f4.txt: the server answered, but did not move it"
    assert (str(caught.value), caught.value.errno) == (message, errno.EIO)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [message]


def test_an_update_speaks_the_style_of_the_servers_own_items(make: Make) -> None:
    """How paths are written in answers is a matter of style."""
    script = Script(one("/a"), one("/b/", size=None))
    client = make(script)
    client.get(ID)
    assert client.update(ID, path="b").path == "b"
    assert json.loads(script.bodies[1]) == {"path": "/b"}


HIDDEN = hidden("d", Role.STAGED)


def forms(script: Script) -> list[str]:
    """Encoding and type name of every request that has a body."""
    encodings = {"application/json": "json"}
    types = [encodings.get(each.headers.get("content-type", ""), "multipart") for each in script.requests]
    pairs = [(kind, body) for kind, body in zip(types, script.bodies, strict=True) if body]
    return [kind + (" long" if b"workspaceItem" in body else " short") for kind, body in pairs]


Seen = Callable[..., tuple[Client, Script]]


@pytest.fixture
def seen(make: Make) -> Seen:
    """A client that has seen how the server writes an item, and the script of its further answers and requests."""

    def seen(*answers: Any, shown: dict[str, str] | None = None, **options: Any) -> tuple[Client, Script]:
        script = Script(many(wire_item(**(shown or {}))), *answers)
        client = make(script, **options)
        client.list_page(100, 0)
        script.requests.clear()
        script.bodies.clear()
        return client, script

    return seen


INVALID = errors.InvalidRequestError
#: How a client begins, what the server answers to creates, the forms that are sent, and as what each create ends.
FORMS: dict[str, tuple[dict[str, Any], list[httpx.Response], list[str], list[tuple[type[errors.ApiError], str] | None]]] = {
    "multipart first": ({}, [one()], ["multipart long"], [None]),
    "in the server's own spelling": ({"shown": {"type": "file"}}, [one()], ["multipart short"], [None]),
    **{f"{pinned} alone": (
        {"create_encoding": pinned}, [failure(422)], [f"{pinned} long", f"{pinned} short"], [(INVALID, "because")],
    ) for pinned in ("multipart", "json")},
    "a 415 only says that the form was wrong, and no form is learned": (
        {}, [failure(415, "media type"), failure(422, "too long"), failure(422, "type"), failure(422, "type"), one()],
        ["multipart long", "json long", "multipart short", "json short", "multipart long"], [(INVALID, "too long"), None],
    ),
    "none after a lost answer": (
        {}, [failure(422), failure(500)], ["multipart long", "json long"], [(errors.AnswerLostError, "500")],
    ),
    **{f"none after a {status}, once one has worked": (
        {}, [one(), failure(status, "ten files")], ["multipart long"] * 2, [None, (errors.ApiError, "ten files")],
    ) for status in (400, 415, 422)},
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_another_form_is_tried_only_if_the_form_may_be_wrong(seen: Seen, create: Create, case: str) -> None:
    options, answers, sent, ends = FORMS[case]
    client, script = seen(*answers, **options)
    for end in ends:
        with pytest.raises(end[0], match=end[1]) if end else nullcontext():
            create(client)
    assert forms(script) == sent
    for request, body in zip(script.requests, script.bodies, strict=True):
        assert request.headers.get("content-length", "0") == str(len(body))
        assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize("refusal", [(415,), (422,), (400, "Malformed JSON"), (400, "Invalid path")])
def test_the_working_encoding_is_remembered_per_kind_of_item(
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


@pytest.mark.parametrize(
    "refusal", [(status, "no") for status in (401, 403, 404, 405, 413, 507)] + [(400, "Path already exists")]
)
def test_a_refusal_of_another_kind_is_final(make: Make, create: Create, refusal: tuple[int, str]) -> None:
    """Other forms and path styles are tried after 400, 415 and 422 only: the same bytes are not sent eight times."""
    script = Script(failure(*refusal))
    with pytest.raises(errors.ApiError) as caught:
        create(make(script))
    assert caught.value.status == refusal[0]
    assert len(script.requests) == 1


@pytest.mark.parametrize("refusal", [(400, "must start with a slash"), (422, [{"path": ["path"]}])])
def test_the_other_path_style_is_tried_until_an_item_was_seen(
    make: Make, seen: Seen, create: Create, refusal: tuple[int, Any]
) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        return one("/a.txt") if b"\r\n/a.txt\r\n" in request.content else failure(*refusal)

    assert create(make(Script(server))).path == "a.txt"
    client, script = seen(failure(*refusal), shown={"path": "/x"})
    with pytest.raises(errors.ApiError):
        create(client)
    assert len(forms(script)) == len(set(forms(script))) == 4
    assert all(b"/a.txt" in body for body in script.bodies if body)


@pytest.mark.parametrize(("shown", "mismatch"), [
    ({"path": "A.txt"}, "path is 'A.txt', not 'a.txt'"), ({"size": 4}, "size is '4', not '5'"),
    ({"type": "directory"}, "kind is 'directory', not 'file'"),
])  # fmt: skip
def test_a_create_whose_answer_shows_something_else_is_not_trusted(
    make: Make, create: Create, shown: dict[str, Any], mismatch: str
) -> None:
    """vfs/semantics.md 5; nothing is deleted at a name that may be the job's."""
    script = Script(one(**shown))
    with pytest.raises(errors.WrongAnswerError, match=mismatch):
        create(make(script))
    assert len(script.requests) == 1
    assert create(make(Script(one(path="/a.txt", size=None)))).path == "a.txt"


@pytest.mark.parametrize(("asked", "shown", "kept"), [
    (f"{HIDDEN}u\u0308", f"{HIDDEN}\u00fc", r"'du\\u0308' as 'd\\xfc'"),
    (f"{HIDDEN}READ", f"{HIDDEN}read", "'dREAD' as 'dread'"),
    (f"{HIDDEN}a:b", f"{HIDDEN}a_b", "'da:b' as 'da_b'"),
    (f"Docs/{HIDDEN}", f"docs/{HIDDEN}", "'Docs/d' as 'docs/d'"),
    ("d", "D", ""), (HIDDEN, HIDDEN.replace(TID, "1" * 16), ""), (HIDDEN, f"elsewhere/{HIDDEN}", ""),
])  # fmt: skip
def test_a_hidden_item_stored_under_another_form_of_its_name_is_deleted(
    make: Make, asked: str, shown: str, kept: str
) -> None:
    """save/protocol.md R6: this server changes names; the transaction in the name shows that it is ours."""
    script = Script(one(shown, type="directory"), httpx.Response(204))
    error = errors.BadRequestError if kept else errors.WrongAnswerError
    message = (
        f"the server keeps the name {kept}"
        if kept
        else "path is|the server answered, but gave it another name"
    )
    with pytest.raises(error, match=message) as caught:
        make(script).create_directory(asked, RW)
    assert caught.value.errno == errno.EIO
    assert [request.method for request in script.requests] == ["POST", "DELETE"][: 1 + bool(kept)]


def answering(status: int, *chunks: bytes | Exception, **headers: str) -> Any:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: httpx.Response(status, headers=given, stream=Chunks(*chunks))


@pytest.mark.parametrize(("asked", "header", "reply", "chunks", "span"), [
    ((), None, (200, {"content_length": "5"}), [b"hel", b"lo"], (0, 5, 5)),
    ((3,), "bytes=3-", (206, {"content_range": "bytes 3-9/10"}), [b"x" * 7], (3, 7, 10)),
    ((0, 4), "bytes=0-3", (206, {"content_range": "bytes 0-3/10"}), [b"x" * 4], (0, 4, 10)),
    ((3, 4), "bytes=3-3", (206, {"content_range": "bytes 3-3/10"}), [b"x"], (3, 1, 10)),
    ((5, 7), "bytes=5-6", (206, {"content_range": "bytes 5-6/*"}), [b"01"], (5, 2, None)),
    # 3: a Range request may be answered 200 instead of 206.
    ((5, 7), "bytes=5-6", (200, {}), [b"01"], (0, None, None)),
    ((5, 7), "bytes=5-6", (200, {"content_length": "2"}), [b"01"], (0, 2, 2)),
    ((5, 7), "bytes=5-6", (416, {"content_range": "bytes */10"}), [], (5, 0, None)),
])  # fmt: skip
def test_a_download_says_which_bytes_it_contains(
    make: Make, asked: tuple[int, ...], header: str | None, reply: tuple[int, dict[str, str]], chunks: list[bytes],
    span: tuple[int, int | None, int | None],
) -> None:  # fmt: skip
    """vfs/semantics.md 3: the whole file or a range, without compression."""
    status, headers = reply
    script = Script(answering(status, *(chunks or [b"no"]), **headers))
    with make(script).download(ID, *asked) as download:
        assert (download.start, download.length, download.total) == span
        assert list(download.chunks()) == chunks
    assert script.asked == [f"GET items/{ID}/download"]
    sent = script.requests[0].headers
    assert (sent["accept-encoding"], sent.get("range")) == ("identity", header)


@pytest.mark.parametrize(
    ("item", "error"), [(one(), errors.ContractError), (failure(404, "Not found"), errors.NotFoundError)]
)
def test_a_404_for_bytes_does_not_mean_a_missing_item(make: Make, item: Any, error: type[Exception]) -> None:
    """vfs/semantics.md 5.14: a client that learns that an item is gone forgets it."""
    script = Script(failure(404, "File not found"), item)
    with pytest.raises(error), make(script).download(ID):
        pass
    assert script.asked == [f"GET items/{ID}/download", f"GET items/{ID}"]


@pytest.mark.parametrize(("status", "headers"), [
    (206, {}), (206, {"content_range": "bytes 0-4/10"}), (206, {"content_range": "items 5-9/10"}),
    (200, {"content_encoding": "br"}),
    (206, {"content_range": "bytes 5-9/10", "content_encoding": "gzip"}),
    (204, {}),
])  # fmt: skip
def test_a_download_with_wrong_length_or_fields_breaks_the_contract(
    make: Make, caplog: pytest.LogCaptureFixture, status: int, headers: dict[str, str]
) -> None:
    """vfs/semantics.md 5.8: wrong length or fields are EIO, and a log line names the endpoint and the mismatch."""
    client = make(Script(answering(status, b"x" * 5, **headers)))
    with pytest.raises(errors.ContractError, match="download"), client.download(ID, 5) as body:
        list(body.chunks())
    assert f"downloading item {ID}: the reply does not match" in caplog.text


def test_a_file_compressed_by_a_gateway_is_read(make: Make) -> None:
    """Its Content-Length counts what is on the wire, and says nothing of the file."""
    packed = gzip.compress(b"hello" * 100_000, mtime=0)
    script = Script(answering(200, packed, content_encoding="gzip", content_length=str(len(packed))))
    with make(script).download(ID) as download:
        assert (download.start, download.length, download.total) == (0, None, None)
        pieces = list(download.chunks())
    assert b"".join(pieces) == b"hello" * 100_000
    assert max(map(len, pieces)) <= 1 << 16


@pytest.mark.parametrize("trouble", [httpx.ReadError("reset"), httpx.ReadTimeout("")])
def test_a_truncated_body_is_not_requested_again(make: Make, trouble: Exception) -> None:
    script = Script(answering(200, b"hel", trouble, content_length="5"))
    got: list[bytes] = []
    with make(script).download(ID) as download, pytest.raises(errors.UnavailableError) as caught:
        got.extend(download.chunks())
    assert (got, type(caught.value)) == ([b"hel"], errors.UnavailableError)
    assert len(script.requests) == 1


def test_leaving_the_context_of_a_download_closes_it(make: Make) -> None:
    stream = Chunks(b"hel", b"lo")
    client = make(lambda request: httpx.Response(200, headers={"content-length": "5"}, stream=stream))
    with client.download(ID) as download:
        next(download.chunks())
        assert not stream.closed
    assert stream.closed


@pytest.mark.parametrize(("asked", "size", "is_large"), [
    ((), None, True), ((), LARGE, False), ((), LARGE + 1, True),
    ((LARGE,), 3 * LARGE, True), ((2 * LARGE,), 3 * LARGE, False), ((LARGE, 2 * LARGE), 9 * LARGE, False),
])  # fmt: skip
def test_a_small_part_of_a_file_waits_for_no_large_body(
    make: Make, asked: tuple[int, ...], size: int | None, is_large: bool
) -> None:
    """vfs/semantics.md 3, Deadlines: a part of a large file is small, too."""
    client = make(Script(answering(200, b"x")), max_connections=2)
    with (
        client.download(ID),
        limit_time(0.05 if is_large else 20.0),
        pytest.raises(errors.OutOfTimeError) if is_large else nullcontext(),
        client.download(ID, *asked, size=size),
    ):
        pass


@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize(("there", "above", "error"), [
    ([wire_item("d/a.txt", id=OTHER)], [], errors.PathExistsError),
    ([], [], errors.NoDirectoryError), ([], [wire_item("d")], errors.NoDirectoryError),
    ([], [wire_item("d", type="workspaceItemDirectory")], errors.BadRequestError),
    ([wire_item("d/a.txt", id=ID)], [], errors.BadRequestError),
])  # fmt: skip
def test_a_look_explains_a_refused_move_with_unknown_wording(
    make: Make, there: list[dict[str, Any]], above: list[dict[str, Any]], error: type[Exception], status: int
) -> None:
    """vfs/semantics.md 5: inside a save, "exists" and "no directory" are findings; their wording is the server's."""

    def server(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return failure(status, "This can't be done")
        return many(*(there if request.url.params["path"].endswith("a.txt") else above))

    script = Script(server)
    with pytest.raises(error, match="can't be done") as caught:
        make(script).update(ID, path="d/a.txt")
    assert caught.type is error
    assert [request.method for request in script.requests].count("POST") <= 2


def test_a_refusal_that_cannot_be_explained_yet_is_not_final(make: Make) -> None:
    """vfs/semantics.md 5: nothing was done, and the reason is not known: the same request may be sent again."""
    script = Script(many(wire_item("x")), failure(400, "This can't be done"), httpx.ConnectError("down"))
    client = make(script, timeout=1.0)
    client.find("x")
    with pytest.raises(errors.UnavailableError):
        client.update(ID, path="a.txt")

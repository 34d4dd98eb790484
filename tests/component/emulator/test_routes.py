"""The eight endpoints against their tables in the API reference, under each switch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from jobfs.emulator import Server

from .conftest import Wire


def is_refused(answer: httpx.Response, reason: str) -> bool:
    assert answer.json() == {"code": 400, "error": "Bad Request", "reason": reason}
    return answer.status_code == 400


def test_take_and_skip_have_defaults_and_take_is_capped(wire: Wire, server: Server) -> None:
    server.store.seed({f"f{number:03d}": "" for number in range(120)})
    assert wire.get("/items/").json()["meta"] == {"total": 120, "take": 100, "skip": 0}
    # Numbers are read as JavaScript reads them.
    assert wire.get("/items/?take=0x1F&skip=%201e1").json()["meta"] == {"total": 120, "take": 31, "skip": 10}
    assert [wire.get(f"/items/?take={text}").status_code for text in ("1_0", "inf", "", "101")] == [422] * 4
    server.set(page_cap=7)
    page = wire.get("/items/").json()
    assert (len(page["data"]["workspaceItems"]), page["meta"]["take"]) == (7, 7)


@pytest.mark.parametrize(("mode", "paths"), [
    ("exact", {"a/b"}), ("prefix", {"a/b", "a/bc"}), ("substring", {"a/b", "a/bc", "x/a/b"}),
    ("glob", {"a/b"}),
])  # fmt: skip
def test_find_compares_as_its_switch_says(wire: Wire, server: Server, mode: str, paths: set[str]) -> None:
    server.store.seed({"a/b": "", "a/bc": "", "x/a/b": "", "a[1].txt": "", "a1.txt": ""})
    server.set(find=mode)
    assert set(wire.found("a/b")) == set(wire.found("/a/b")) == paths
    assert wire.found("a[1].txt") == ["a1.txt" if mode == "glob" else "a[1].txt"]
    if mode == "glob":
        assert set(wire.found("{a,x}/**")) == {"a/b", "a/bc", "x/a", "x/a/b"}
        assert (wire.found("?1.t[!a]t"), wire.found("{a")) == (["a1.txt"], [])


def test_find_of_a_missing_name_answers_as_its_switch_says(wire: Wire, server: Server) -> None:
    server.store.seed({"there": ""})
    assert wire.found("missing") == []
    server.set(find_missing=404)
    answer = wire.get("/items/find?path=missing")
    assert (answer.status_code, answer.json()["code"]) == (404, 404)
    assert wire.found("there") == ["there"]


@pytest.mark.parametrize("path", ["", "/", "../x", "a//b", "a/", "a/./b", "a\0b", "x" * 1025])
def test_a_create_at_an_impossible_path_is_400_or_422(wire: Wire, server: Server, path: str) -> None:
    assert is_refused(wire.create(path), "Invalid path")
    server.set(bad_path_status=422)
    assert wire.create(path).status_code == 422
    assert is_refused(wire.create("none/f"), "Directory not found")


def test_a_create_needs_its_directory_unless_implicit_ones_are_allowed(wire: Wire, server: Server) -> None:
    server.store.seed({"file": "", "implicit/x": ""}, directories=False)
    for path in ("none/f", "file/f", "implicit/f"):
        assert is_refused(wire.create(path), "Directory not found")
    server.set(implicit_directories="allowed")
    wire.made("x/y/z")
    assert list(server.store.tree()) == ["file", "implicit/x", "x/y/z"]
    assert is_refused(wire.create("x/y/z/f"), "Directory not found")


def test_a_create_at_an_existing_path_overwrites_the_same_item(wire: Wire, server: Server) -> None:
    server.set(create_existing="overwrite", updated_resolution="microseconds")
    first = wire.made("f", b"1")
    assert is_refused(wire.create("f", None), "Path already exists")
    second = wire.made("f", b"22", permission="readOnly")
    assert (first["id"], first["createdAt"]) == (second["id"], second["createdAt"])
    assert first["updatedAt"] < second["updatedAt"]
    assert (second["size"], second["permission"], server.store.read("f")) == (2, "readOnly", b"22")


@pytest.mark.parametrize(("scope", "status"), [("all", 400), ("lifecycle", 200)])
def test_a_switch_says_whether_a_default_counts_as_existing(
    wire: Wire, server: Server, scope: str, status: int
) -> None:
    server.store.seed({"f": "", "h": ""}, lifecycle="application")
    server.set(path_scope=scope)
    assert wire.create("f").status_code == status
    other = server.store.seed({"g": ""})[0]
    assert wire.update(other.id, path="h").status_code == status
    assert wire.update(other.id, path="h", lifecycle="application").status_code == 400


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def multipart(*parts: bytes) -> tuple[str, bytes]:
    return "multipart/form-data; boundary=x", b"".join(parts) + b"--x--\r\n"


JSON, FORM = "application/json", "multipart/form-data; boundary=x"
TYPE, PATH, FILE = part("type", b"file"), part("path", b"f"), part("file", b"1", '; filename="f"')
WRONG = [
    (JSON, b'{"path": "f", "content": "not base64!"}'),
    (JSON, b'{"path": "f", "content": "", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("multipart/form-data", b""), (FORM, PATH[:-2]), multipart(TYPE, PATH, FILE, part("path", b"g")),
    multipart(TYPE, PATH, part("file", b"1")),
]  # fmt: skip


@pytest.mark.parametrize(("header", "body"), WRONG, ids=range(len(WRONG)))
def test_a_malformed_create_creates_nothing(wire: Wire, server: Server, header: str, body: bytes) -> None:
    answer = wire.post("/items/", content=body, headers={"content-type": header})
    assert (answer.status_code, answer.json()["error"]) == (422, "Validation Failed")
    assert (server.store.items(), list(server.directory.glob("content/*/*"))) == ([], [])
    header, body = multipart(TYPE, PATH, FILE)
    assert wire.post("/items/", content=body, headers={"content-type": header}).status_code == 200


def test_a_switch_makes_the_server_accept_only_its_own_spelling(wire: Wire, server: Server) -> None:
    server.set(input_spelling="own", path_style="slash", type_spelling="short")
    assert wire.create("/f", type="workspaceItemFile").status_code == 422
    assert wire.create("f", type="file").json()["reason"] == "Invalid path"
    assert wire.create("/f", type="file").status_code == 200
    assert (wire.found("f"), wire.found("/f")) == ([], ["/f"])
    server.set(input_spelling="both")
    assert wire.create("g", type="workspaceItemFile").status_code == 200


def test_an_update_is_rejected_as_the_reference_says(wire: Wire) -> None:
    directory, below, other = wire.made("d", None), wire.made("d/e", None), wire.made("f")
    assert is_refused(wire.update(other["id"]), "At least one field is required")
    json = {"content-type": "application/json"}
    half = wire.post(f"/items/{other['id']}", content=rb'{"path": "\ud800"}', headers=json)
    assert is_refused(half, "Invalid path")
    assert is_refused(wire.update(directory["id"], path="d/e/d"), "Invalid path")
    assert is_refused(wire.update(other["id"], path="none/f"), "Directory not found")
    assert is_refused(wire.update(other["id"], path="d"), "Path already exists")
    assert is_refused(wire.update(below["id"], path="f"), "Path already exists")
    assert wire.update(other["id"], path="f").status_code == 200


@pytest.mark.parametrize(
    ("touches", "changed"), [("no", set()), ("item", {"n"}), ("tree", {"n", "n/f", "n/e", "n/e/g"})]
)
def test_a_directory_moves_with_its_content_and_a_switch_sets_the_times(
    wire: Wire, server: Server, touches: str, changed: set[str]
) -> None:
    server.set(move_touches=touches, updated_resolution="microseconds")
    server.store.seed({"d/f": "", "d/e/g": "", "dx": ""})
    before = {item["id"]: item["updatedAt"] for item in wire.listed()}
    assert wire.update(server.store.item_at("d").id, path="n").json()["data"]["workspaceItem"]["path"] == "n"
    assert list(server.store.tree()) == ["dx", "n", "n/e", "n/e/g", "n/f"]
    assert {item["path"] for item in wire.listed() if before[item["id"]] != item["updatedAt"]} == changed


@pytest.mark.parametrize("locked", [True, False])
def test_moves_to_one_path_collide_only_where_moves_are_not_locked(
    wire: Wire, server: Server, locked: bool
) -> None:
    server.set(move_work=200, move_locked=locked)
    server.store.seed({"a": "", "b": ""})
    with ThreadPoolExecutor(2) as pool:
        moves = [pool.submit(wire.update, server.store.item_at(name).id, path="to") for name in ("a", "b")]
        answers = sorted(move.result().status_code for move in moves)
    assert answers == ([200, 400] if locked else [200, 200])
    assert len([item for item in wire.listed() if item["path"] == "to"]) == (1 if locked else 2)


def test_a_range_is_answered_with_206_or_416(wire: Wire, server: Server) -> None:
    item = server.store.write("f", "0123456789")
    part = wire.download(item.id, range="bytes=2-4")
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "234", "bytes 2-4/10")
    assert [wire.download(item.id, range=f"bytes={text}").text for text in ("8-99", "-3")] == ["89", "789"]
    for text in ("3-2", "0-1,4-5"):
        assert wire.download(item.id, range=f"bytes={text}").status_code == 200
    beyond = wire.download(item.id, range="bytes=10-")
    assert (beyond.status_code, beyond.content, beyond.headers["content-range"]) == (416, b"", "bytes */10")
    server.set(ranges=False)
    whole = wire.download(item.id, range="bytes=2-4")
    assert (whole.status_code, whole.text, "accept-ranges" in whole.headers) == (200, "0123456789", False)


def test_answers_have_the_shape_that_the_switches_say(wire: Wire, server: Server) -> None:
    """Deletions, the name of an item in an answer, collection URLs with and without a slash, the items of the instance."""
    bodies = {"null": b"null", "empty": b"{}", "nothing": b""}
    for form, body in bodies.items():
        server.set(delete_body=form)
        assert wire.delete(f"/items/{wire.made('a')['id']}").content == body
    server.set(delete_body="item", envelope="item")
    made = wire.create("a").json()["data"]
    assert [*made] == ["item"]
    deleted = wire.delete(f"/items/{made['item']['id']}").json()
    assert deleted["data"]["item"]["id"] == made["item"]["id"]
    server.set(envelope="workspaceItem")
    for form, codes in {"both": (200, 200), "slash": (200, 307), "bare": (307, 200)}.items():
        server.set(trailing_slash=form)
        assert tuple(wire.get(url).status_code for url in ("/items/", "/items")) == codes, form
    server.set(trailing_slash="both")
    server.store.seed({f"f{number}": "" for number in range(12)})
    counts = []
    for form in ("empty", "partial", "complete"):
        server.set(instance_items=form)
        counts.append(len(wire.get("/").json()["data"]["workspaceInstance"]["items"]))
    assert counts == [0, 10, 12]


def test_an_update_is_accepted_only_as_json(wire: Wire) -> None:
    made = wire.made("a")
    answer = wire.post(f"/items/{made['id']}", data={"path": "b"})
    assert (answer.status_code, wire.found("b")) == (422, [])

"""The eight endpoints against their tables in the API reference, under each switch."""

from __future__ import annotations

import httpx
import pytest

from jobfs.emulator import Server

from .conftest import Wire

UNKNOWN = "0" * 24


def refused(answer: httpx.Response, status: int, reason: str) -> bool:
    names = {400: "Bad Request", 404: "Not Found"}
    assert answer.json() == {"code": status, "error": names[status], "reason": reason}
    return answer.status_code == status


# GET workspace_instance/


@pytest.mark.parametrize(("shown", "count"), [("empty", 0), ("partial", 10), ("complete", 12)])
def test_the_instances_items_are_as_many_as_the_switch_says(
    wire: Wire, server: Server, shown: str, count: int
) -> None:
    server.store.seed({f"f{number}": "" for number in range(12)})
    server.set(instance_items=shown)
    instance = wire.get("/").json()["data"]["workspaceInstance"]
    assert (len(instance["items"]), instance["countItems"]) == (count, 12)
    assert all(item["path"].startswith("f") for item in instance["items"])


# GET items/


def test_take_and_skip_have_defaults_and_the_cap_holds(wire: Wire, server: Server) -> None:
    server.store.seed({f"f{number:03d}": "" for number in range(120)})
    assert wire.get("/items/").json()["meta"] == {"total": 120, "take": 100, "skip": 0}
    server.set(page_cap=7)
    page = wire.get("/items/").json()
    assert (len(page["data"]["workspaceItems"]), page["meta"]["take"]) == (7, 7)


# GET items/find


@pytest.mark.parametrize(
    ("mode", "paths"),
    [
        ("exact", {"a/b"}),
        ("prefix", {"a/b", "a/bc"}),
        ("substring", {"a/b", "a/bc", "x/a/b"}),
        ("glob", {"a/b"}),
    ],
)
def test_find_compares_as_the_switch_says(wire: Wire, server: Server, mode: str, paths: set[str]) -> None:
    server.store.seed({"a/b": "", "a/bc": "", "x/a/b": "", "other": ""})
    server.set(find=mode)
    assert set(wire.found("a/b")) == paths
    assert set(wire.found("/a/b")) == paths


def test_find_can_take_a_path_for_a_pattern(wire: Wire, server: Server) -> None:
    server.store.seed({"a[1].txt": "", "a1.txt": "", "b/c.txt": "", "{x}": ""})
    assert wire.found("a[1].txt") == ["a[1].txt"]
    server.set(find="glob")
    assert wire.found("a[1].txt") == ["a1.txt"]
    assert set(wire.found("/*.txt")) == {"a[1].txt", "a1.txt"}
    assert wire.found("{x}") == []


# POST items/


def test_a_created_file_is_there_with_its_bytes(wire: Wire, server: Server) -> None:
    item = wire.made("a.txt", b"\r\n--not a boundary\0", permission="readOnly")
    assert (item["path"], item["size"], item["permission"]) == ("a.txt", 19, "readOnly")
    assert (item["lifecycle"], item["owner"], item["mimeType"]) == ("expertJob", "user", "text/plain")
    assert server.store.read("a.txt") == b"\r\n--not a boundary\0"


@pytest.mark.parametrize(
    "path", ["", "/", "//a", "../x", "a//b", "a/", ".", "a/./b", "a/..", "a\0b", "x" * 1025]
)
def test_a_create_at_an_impossible_path_is_400(wire: Wire, path: str) -> None:
    assert refused(wire.create(path), 400, "Invalid path")


@pytest.mark.parametrize(
    ("style", "sent", "status"),
    [
        ("relative", "x" * 1024, 200),
        ("relative", "/" + "x" * 1024, 400),
        ("slash", "x" * 1024, 400),
        ("relative", "😀" * 512, 200),
        ("relative", "😀" * 512 + "x", 400),
    ],
)
def test_a_path_is_as_long_as_sent_and_as_shown_in_utf16(
    wire: Wire, server: Server, style: str, sent: str, status: int
) -> None:
    server.set(path_style=style)
    item = wire.made("f")
    assert wire.update(item["id"], path=sent).status_code == status
    server.store.clear()
    assert wire.create(sent).status_code == status


def test_an_impossible_path_can_be_422(wire: Wire, server: Server) -> None:
    server.set(bad_path_status=422)
    assert wire.create("../x").status_code == 422
    assert refused(wire.create("none/f"), 400, "Directory not found")


def test_a_create_needs_its_directory(wire: Wire, server: Server) -> None:
    server.store.seed({"file": "", "implicit/x": ""}, directories=False)
    for path in ("none/f", "file/f", "implicit/f"):
        assert refused(wire.create(path), 400, "Directory not found")
    wire.made("d", None)
    wire.made("d/f")


def test_implicit_directories_can_be_allowed_but_never_below_a_file(wire: Wire, server: Server) -> None:
    server.set(implicit_directories="allowed")
    wire.made("x/y/z")
    assert list(server.store.tree()) == ["x/y/z"]
    assert refused(wire.create("x/y/z/f"), 400, "Directory not found")


@pytest.mark.parametrize(
    ("form", "kept"),
    [("as_sent", "U\u0308 /B "), ("nfc", "\u00dc /B "), ("lower", "u\u0308 /b "), ("trimmed", "U\u0308/B")],
)
def test_names_are_kept_in_the_form_that_was_chosen(wire: Wire, server: Server, form: str, kept: str) -> None:
    server.set(name_form=form, implicit_directories="allowed")
    made = wire.made("U\u0308 /B ")
    assert made["path"] == kept
    assert list(server.store.tree()) == [kept]
    moved = wire.update(made["id"], path="U\u0308 /B .txt")
    assert moved.json()["data"]["workspaceItem"]["path"] == server.store.by_id(made["id"]).path


def test_a_create_at_an_existing_path_is_rejected(wire: Wire, server: Server) -> None:
    wire.made("f", b"1")
    assert refused(wire.create("f", b"2"), 400, "Path already exists")
    assert refused(wire.create("f", None), 400, "Path already exists")
    assert server.store.read("f") == b"1"


def test_a_create_at_an_existing_path_overwrites_the_same_item(wire: Wire, server: Server) -> None:
    server.set(create_existing="overwrite", updated_resolution="microseconds")
    first = wire.made("f", b"1")
    second = wire.made("f", b"22", permission="readOnly")
    assert first["id"] == second["id"]
    assert first["createdAt"] == second["createdAt"]
    assert first["updatedAt"] < second["updatedAt"]
    assert (second["size"], second["permission"]) == (2, "readOnly")
    assert refused(wire.create("f", None), 400, "Path already exists")
    assert server.store.read("f") == b"22"


@pytest.mark.parametrize(("scope", "status"), [("all", 400), ("lifecycle", 200)])
def test_a_default_counts_as_existing_or_not(wire: Wire, server: Server, scope: str, status: int) -> None:
    server.store.seed({"f": ""}, lifecycle="application")
    server.set(path_scope=scope)
    assert wire.create("f").status_code == status
    other = server.store.seed({"g": ""})[0]
    server.store.seed({"h": ""}, lifecycle="application")
    assert wire.update(other.id, path="h").status_code == status
    assert wire.update(other.id, path="h", lifecycle="application").status_code == 400


# GET, POST, DELETE items/{id}


def test_the_envelope_of_a_single_item_can_be_called_item(wire: Wire, server: Server) -> None:
    server.set(envelope="item", delete_body="item")
    item = wire.create("f").json()["data"]["item"]
    assert wire.get(f"/items/{item['id']}").json() == {"data": {"item": item}}
    assert list(wire.update(item["id"], path="g").json()["data"]) == ["item"]
    assert [one["path"] for one in wire.listed()] == ["g"]
    assert list(wire.delete(f"/items/{item['id']}").json()["data"]) == ["item"]


def test_an_update_is_refused_as_the_reference_says(wire: Wire) -> None:
    directory, below, other = wire.made("d", None), wire.made("d/e", None), wire.made("f")
    assert refused(wire.update(other["id"]), 400, "At least one field is required")
    assert refused(wire.update(other["id"], path="../f"), 400, "Invalid path")
    half = wire.post(
        f"/items/{other['id']}", content=rb'{"path": "\ud800"}', headers={"content-type": "application/json"}
    )
    assert refused(half, 400, "Invalid path")
    assert refused(wire.update(other["id"], path="none/f"), 400, "Directory not found")
    assert refused(wire.update(other["id"], path="d"), 400, "Path already exists")
    assert refused(wire.update(directory["id"], path="d/e/d"), 400, "Invalid path")
    assert refused(wire.update(below["id"], path="f"), 400, "Path already exists")
    assert wire.update(other["id"], path="f").status_code == 200


def test_a_directory_moves_with_all_under_it(wire: Wire, server: Server) -> None:
    server.store.seed({"d/e/f": "x", "d/g": "y", "dx": "z"})
    answer = wire.update(server.store.item("d").id, path="n")
    assert answer.json()["data"]["workspaceItem"]["path"] == "n"
    assert list(server.store.tree()) == ["dx", "n", "n/e", "n/e/f", "n/g"]


@pytest.mark.parametrize(("touches", "changed"), [("no", set()), ("item", {"n"}), ("tree", {"n", "n/f"})])
def test_a_move_changes_the_times_that_the_switch_says(
    wire: Wire, server: Server, touches: str, changed: set[str]
) -> None:
    server.set(move_touches=touches, updated_resolution="microseconds")
    server.store.seed({"d/f": ""})
    before = {item["id"]: item["updatedAt"] for item in wire.listed()}
    wire.update(server.store.item("d").id, path="n")
    assert {item["path"] for item in wire.listed() if before[item["id"]] != item["updatedAt"]} == changed


@pytest.mark.parametrize(("shown", "body"), [("null", b"null"), ("empty", b"{}"), ("nothing", b"")])
def test_a_delete_answers_with_the_body_of_the_switch(
    wire: Wire, server: Server, shown: str, body: bytes
) -> None:
    server.set(delete_body=shown)
    answer = wire.delete(f"/items/{wire.made('f')['id']}")
    assert (answer.status_code, answer.content) == (200, body)


# GET items/{id}/download


def test_a_range_is_answered_with_206_or_416(wire: Wire, server: Server) -> None:
    item = server.store.write("f", "0123456789")
    part = wire.download(item.id, range="bytes=2-4")
    assert (part.status_code, part.text, part.headers["content-range"]) == (206, "234", "bytes 2-4/10")
    beyond = wire.download(item.id, range="bytes=10-")
    assert (beyond.status_code, beyond.content, beyond.headers["content-range"]) == (416, b"", "bytes */10")
    server.set(ranges=False)
    whole = wire.download(item.id, range="bytes=2-4")
    assert (whole.status_code, whole.text) == (200, "0123456789")
    assert "accept-ranges" not in whole.headers

from __future__ import annotations

import json
from typing import Any

import pytest

from jobfs.api.failures import MismatchError
from jobfs.api.models import Page, parse_instance, parse_item, parse_page, parse_time
from jobfs.nodes import Item, Kind, Lifecycle, Permission

from .world import wire_item

TOTALS = ("many", -1, None, 2**62, [3])


def page_body(*items: Any, **more: Any) -> bytes:
    meta = {"meta": {"total": len(items), "take": 100, "skip": 0}}
    return json.dumps({"data": {"workspaceItems": list(items)}, **meta, **more}).encode()


def item_body(**fields: Any) -> bytes:
    return json.dumps({"data": {"workspaceItem": wire_item(**fields)}}).encode()


def test_every_field_of_an_item_is_read() -> None:
    item, _ = parse_item(item_body(path="dir/a.txt", lifecycle="application", permission="readOnly"))
    assert item == Item(
        id="item00000000000000000001", kind=Kind.FILE, path="dir/a.txt", lifecycle=Lifecycle.APPLICATION,
        permission=Permission.READ_ONLY, owner="expert", created_at="2025-11-01T10:00:00.000Z",
        updated_at="2025-11-02T10:00:00.250Z", updated_ns=1_762_077_600_250_000_000, size=5,
        mime_type="text/plain", key="store/1",
    )  # fmt: skip


@pytest.mark.parametrize("odd", [None, 7, [], {}, True])
def test_malformed_optional_fields_count_as_absent(odd: Any) -> None:
    optional = ("lifecycle", "permission", "owner", "createdAt", "updatedAt", "mimeType", "key")
    fields = {**wire_item(), **dict.fromkeys(optional, odd), "size": "big"}
    bare = {"type": "file", "id": "a" * 24, "path": "/x/"}
    first = Item(id="item00000000000000000001", kind=Kind.FILE, path="a.txt")
    assert parse_page(page_body(fields, bare), 100, 0)[0].items == [first, Item("a" * 24, Kind.FILE, "x")]


SIZES = [
    (0, 0), (12.0, 12), ("12", 12), (2**63 - 1, 2**63 - 1), (-1, None), ("12 bytes", None), (2**64, None),
    (None, None), (1e300, None), (float("nan"), None), ([12], None),
]  # fmt: skip


@pytest.mark.parametrize(("given", "size"), SIZES)
def test_a_size_is_a_number_or_numeric_string_or_unknown(given: Any, size: int | None) -> None:
    assert parse_item(item_body(size=given))[0].size == size


def test_unknown_fields_and_types_do_not_break_a_listing() -> None:
    """vfs/semantics.md 1.21. Omitted items without an id are distinguished by position: else the list would never be stable."""
    link = {"type": "workspaceItemLink", "id": "b" * 24, "target": "elsewhere"}
    page, _ = parse_page(page_body(wire_item(color="red", nested={"deep": [1]}), link, {}, None, 5), 5, 2)
    assert [item.path for item in page.items] == ["a.txt"]
    assert page.unknown == ("b" * 24, "#4", "#5", "#6")


ODD = [
    b'"type": ["file"]', b'"type": {"file": 1}', b'"type": 7', b'"type": null', b'"size": ' + b"9" * 500,
    b'"size": -' + b"9" * 500, b'"size": 1e9999', b'"size": NaN', b'"size": -Infinity', b'"color": ' + b"[" * 150 + b"]" * 150,
    b'"path": ' + b"[" * 150 + b'"]\\""' + b"]" * 150, b'"path": "\xff\xfe"', b'"path": "\xed\xa0\x80"', b'"path": "\\ud800"',
    b'"path": "a\x00b"', b'"path": "a\nb"', b'"owner": "\xff"', b'"updatedAt": "\\udcff"', b'"\xff": "\x01"',
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_a_malformed_value_hides_at_most_its_own_item(odd: bytes) -> None:
    """vfs/semantics.md 1.21: one item with an absurd number, depth, byte or type does not break a listing."""
    good = json.dumps(wire_item("good"), ensure_ascii=False).encode()
    bad = json.dumps({**wire_item("bad"), "id": "b" * 24}).encode()[:-1] + b", " + odd + b"}"
    body = b'{"meta": {"total": 3}, "data": {"workspaceItems": [%b, %b, %b]}}' % (bad, good, bad)
    page, _ = parse_page(body, 100, 0)
    assert [item.path for item in page.items if item.id != "b" * 24] == ["good"]
    assert page.total == 3
    for item in page.items:
        for text in (item.updated_at, item.created_at, item.owner, item.mime_type, item.key):
            text.encode()


def test_strings_longer_than_the_reference_allows_are_dropped() -> None:
    item, _ = parse_item(item_body(key="k" * 5000, owner="o" * 5000, mimeType="m" * 1024))
    assert (item.key, item.owner, item.mime_type) == ("", "", "m" * 1024)
    page, _ = parse_page(page_body(wire_item("p/" * 3000), wire_item("good")), 100, 0)
    assert [item.path for item in page.items] == ["good"]


def test_a_single_item_has_one_of_two_names() -> None:
    """api/wire.md: the vendor's rewrite wraps it as data.item."""
    assert parse_item(json.dumps({"data": {"item": wire_item()}}).encode())[0].path == "a.txt"
    for odd in (item_body(type="workspaceItemLink"), item_body(type=7), b'{"data": {"workspaceItem": null}}'):
        with pytest.raises(MismatchError, match=r"data\.workspaceItem"):
            parse_item(odd)


PATHS = {
    "a/b": "a/b", "/a/b": "a/b", "a/b/": "a/b", "//a": "/a", "a//": "a/", "/": "", " a ": " a ", "a/../b": "a/../b",
}  # fmt: skip


@pytest.mark.parametrize("raw", PATHS)
def test_a_path_loses_one_slash_at_each_end_and_nothing_else(raw: str) -> None:
    assert parse_item(item_body(path=raw))[0].path == PATHS[raw]


@pytest.mark.parametrize("meta", [None, {}, *({"total": total} for total in TOTALS)], ids=range(7))
def test_without_a_total_a_page_that_is_not_full_ends_the_list(meta: Any) -> None:
    items = [wire_item(str(number)) for number in range(3)]
    assert parse_page(page_body(*items, meta=meta), 4, 8)[0][1:] == (11, 4, ())
    assert parse_page(page_body(*items, meta=meta), 3, 8)[0][1:] == (12, 3, ())
    assert parse_page(page_body(meta={"total": 250.0, "take": 50.0}), 100, 100)[0][1:] == (250, 50, ())


@pytest.mark.parametrize(("body", "what"), [
    (b"", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"data": {"workspaceItems": [' + b'\\"' * 1_000_000, "not JSON"),  # a text that does not end
    (b'{"data": {"workspaceItems": [' + b"{}," * 100_000 + b"{}]}}", "at most 20000 items"),
    (b"[]", "the body: Input should be an object"),
    (b'{"data": {}}', "data.workspaceItems: Field required"),
    (b'{"data": {"workspaceItems": {}}}', "data.workspaceItems: Input should be a valid array"),
], ids=range(7))  # fmt: skip
def test_a_malformed_reply_is_a_mismatch_that_names_the_field(body: bytes, what: str) -> None:
    with pytest.raises(MismatchError, match=what):
        parse_page(body, 100, 0)


def test_the_list_of_an_empty_page_may_be_null() -> None:
    """api/wire.md: lenient in what is accepted; Go writes an empty list so. Behind the last item any total will do."""
    body = b'{"data": {"workspaceItems": null}, "meta": {"total": 5}}'
    assert parse_page(body, 100, 99)[0] == Page([], 5, 100)


@pytest.mark.parametrize("query", ["whole", "cut \ud83d"])
def test_an_instance_has_job_and_count_and_tolerates_a_split_character(query: str) -> None:
    raw = {"id": "w", "expertJob": {"id": "j" * 24, "query": query}, "countItems": 7.0, "items": []}
    instance, _ = parse_instance(json.dumps({"data": {"workspaceInstance": raw}}).encode())
    assert (instance.count_items, instance.raw) == (7, raw)


@pytest.mark.parametrize(("text", "expected"), [
    ("1970-01-01T00:00:00.1234567891Z", 123_456_000),
    ("1970-01-01T01:00:00.25+01:00", 250_000_000),
    ("1970-01-01 00:00:02", 2_000_000_000),
    ("1970-01-01t00:00:03z", 3_000_000_000),
    ("1969-12-31T23:59:59.5Z", -500_000_000),
    # A time that no file system holds becomes the nearest time that one holds.
    *((text, 1 - 2**63) for text in ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00")),
    *((text, 2**63 - 1) for text in ("9999-12-31T23:59:59.999999999-14:00", "2262-04-12T00:00:00Z")),
    # A text that is no time is zero.
    *((text, 0) for text in ("", "yesterday", "2025-13-01T00:00:00Z", "1762077600")),
])  # fmt: skip
def test_a_time_is_read_to_the_microsecond(text: str, expected: int) -> None:
    assert parse_time(text) == expected

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobfs.api.failures import MismatchError
from jobfs.api.models import normal_path, parse_instance, parse_item, parse_items, parse_page, parse_time
from jobfs.nodes import Item, Kind, Lifecycle, Permission

from .conftest import wire_item


def page_body(*items: Any, **more: Any) -> bytes:
    meta = {"meta": {"total": len(items), "take": 100, "skip": 0}}
    return json.dumps({"data": {"workspaceItems": list(items)}, **meta, **more}).encode()


def item_body(**fields: Any) -> bytes:
    return json.dumps({"data": {"workspaceItem": wire_item(**fields)}}).encode()


def test_every_field_of_an_item_is_read() -> None:
    item, _ = parse_item(item_body(path="dir/a.txt", lifecycle="application", permission="readOnly"))
    assert item == Item(
        id="item00000000000000000001",
        kind=Kind.FILE,
        path="dir/a.txt",
        lifecycle=Lifecycle.APPLICATION,
        permission=Permission.READ_ONLY,
        owner="expert",
        created_at="2025-11-01T10:00:00.000Z",
        updated_at="2025-11-02T10:00:00.250Z",
        updated_ns=1_762_077_600_250_000_000,
        size=5,
        mime_type="text/plain",
        key="store/1",
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("workspaceItemFile", Kind.FILE),
        ("file", Kind.FILE),
        ("workspaceItemDirectory", Kind.DIRECTORY),
        ("directory", Kind.DIRECTORY),
    ],
)
def test_both_spellings_of_a_type_are_read(name: str, kind: Kind) -> None:
    assert parse_item(item_body(type=name))[0].kind is kind


def test_absent_optional_fields_are_tolerated() -> None:
    bare = {"type": "file", "id": "a" * 24, "path": "/x/"}
    assert parse_items(page_body(bare))[0] == [Item(id="a" * 24, kind=Kind.FILE, path="x")]


@pytest.mark.parametrize("odd", [None, 7, [], {}, True])
def test_optional_fields_of_another_form_are_as_if_absent(odd: Any) -> None:
    optional = ("lifecycle", "permission", "owner", "createdAt", "updatedAt", "mimeType", "key")
    fields = {**wire_item(), **dict.fromkeys(optional, odd), "size": "big"}
    assert parse_items(page_body(fields))[0] == [
        Item(id="item00000000000000000001", kind=Kind.FILE, path="a.txt")
    ]


@pytest.mark.parametrize(
    ("given", "size"),
    [(0, 0), (12, 12), (12.0, 12), (-1, None), ("12", None), (None, None), (1e300, None), (True, None)],
)
def test_a_size_is_a_number_or_not_known(given: Any, size: int | None) -> None:
    assert parse_item(item_body(size=given))[0].size == size


def test_a_directory_has_no_size() -> None:
    assert parse_item(item_body(type="directory", size=4096))[0].size is None


def test_unknown_fields_and_types_do_not_break_a_listing() -> None:
    """semantics 1.21: unknown fields and unknown item types do not break a listing."""
    body = page_body(
        wire_item(color="red", nested={"deep": [1]}),
        {"type": "workspaceItemLink", "id": "b" * 24, "target": "elsewhere"},
        {**wire_item("b"), "id": "c" * 24},
    )
    page, _ = parse_page(body, 100, 0)
    assert [item.path for item in page.items] == ["a.txt", "b"]
    assert page.unknown == ("b" * 24,)


@pytest.mark.parametrize(
    "odd", [None, 5, "text", {}, {"type": "file"}, {**wire_item(), "id": "../x"}, {**wire_item(), "path": 3}]
)
def test_one_malformed_item_hides_no_other(odd: Any) -> None:
    page, _ = parse_page(page_body(wire_item(), odd), 100, 0)
    assert [item.path for item in page.items] == ["a.txt"]
    assert len(page.unknown) == 1


def test_a_path_of_invalid_unicode_hides_no_other() -> None:
    """semantics 1: hostile paths are never shown; what they are is for the tree to decide."""
    items, _ = parse_items(page_body(wire_item("good"), wire_item("bad\ud800")))
    assert [item.path for item in items] == ["good", "bad\ud800"]


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("a/b", "a/b"),
        ("/a/b", "a/b"),
        ("a/b/", "a/b"),
        ("//a", "/a"),
        ("a//", "a/"),
        ("/", ""),
        (" a ", " a "),
        ("a/../b", "a/../b"),
    ],
)
def test_a_path_loses_one_slash_at_each_end_and_nothing_else(raw: str, normal: str) -> None:
    assert normal_path(raw) == normal


def test_a_total_in_quotes_counts() -> None:
    """semantics 1.4: no item is ever lost, on a server that gives less than was asked for either."""
    page, _ = parse_page(page_body(meta={"total": "250", "take": "100", "skip": "0"}), 100, 0)
    assert (page.total, page.take, page.skip) == (250, 100, 0)


def test_meta_is_taken_from_the_server_in_any_number_form() -> None:
    page, _ = parse_page(page_body(meta={"total": 250.0, "take": 50, "skip": 100.0}), 100, 100)
    assert page[1:] == (250, 50, 100, ())


@pytest.mark.parametrize("meta", [None, [], {}, {"total": "many"}, {"total": -1}, {"total": None}])
def test_without_a_total_a_page_that_is_not_full_ends_the_list(meta: Any) -> None:
    items = [wire_item(str(number)) for number in range(3)]
    assert parse_page(page_body(*items, meta=meta), 4, 8)[0][1:] == (11, 4, 8, ())
    assert parse_page(page_body(*items, meta=meta), 3, 8)[0][1:] == (12, 3, 8, ())


def test_a_reply_without_meta_is_read() -> None:
    body = json.dumps({"data": {"workspaceItems": [wire_item()]}}).encode()
    assert parse_page(body, 100, 0)[0].total == 1


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "data is missing"),
        (b'{"data": []}', "data is missing"),
        (b'{"data": {}}', "data.workspaceItems is missing"),
        (b'{"data": {"workspaceItems": {}}}', "data.workspaceItems is missing"),
    ],
)
def test_a_reply_of_another_form_is_a_mismatch_that_says_where(body: bytes, what: str) -> None:
    with pytest.raises(MismatchError, match=what):
        parse_page(body, 100, 0)


def test_an_item_that_can_not_be_used_is_a_mismatch_where_one_was_asked_for() -> None:
    with pytest.raises(MismatchError, match="workspaceItemLink"):
        parse_item(item_body(type="workspaceItemLink"))
    with pytest.raises(MismatchError, match=r"data\.workspaceItem is missing"):
        parse_item(b'{"data": {"workspaceItem": null}}')


def test_an_instance_names_job_status_and_count() -> None:
    raw = {"id": "w", "expertJob": {"id": "j" * 24, "status": "processing"}, "countItems": 7.0, "items": []}
    instance = parse_instance(json.dumps({"data": {"workspaceInstance": raw}}).encode(), "x" * 24)
    assert (instance.job_id, instance.job_status, instance.count_items) == ("j" * 24, "processing", 7)
    assert instance.raw == raw


def test_an_instance_that_says_little_is_read() -> None:
    instance = parse_instance(b'{"data": {"workspaceInstance": {"expertJob": null}}}', "x" * 24)
    assert (instance.job_id, instance.job_status, instance.count_items) == ("x" * 24, "", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.1234567891Z", 123_456_789),
        ("1970-01-01T01:00:00.25+01:00", 250_000_000),
        ("1969-12-31T19:30:00-0430", 0),
        ("1970-01-01 00:00:02", 2_000_000_000),
        ("1970-01-01t00:00:02,5z", 2_500_000_000),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("2025-11-02T10:00:00.250Z", 1_762_077_600_250_000_000),
    ],
)
def test_a_time_is_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025-13-01T00:00:00Z", "2025-01-01T25:00:00Z", "2025-01-01", "Z", "1762077600"]
)
def test_what_is_no_time_is_zero(text: str) -> None:
    assert parse_time(text) == 0


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_every_iso_time_is_read(moment: datetime, minutes: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_time(aware.isoformat()) == since // timedelta(microseconds=1) * 1000
    assert parse_time(aware.astimezone(UTC).isoformat().replace("+00:00", "Z")) == parse_time(
        aware.isoformat()
    )

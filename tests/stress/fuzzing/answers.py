"""What a server may send: answers of any status, headers, framing and bytes, with JSON that nearly is the API's."""

from __future__ import annotations

import gzip
import json
from typing import Any, NamedTuple

from hypothesis import strategies as st

#: Numbers that parsers, clocks and file systems stumble over.
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**53, 2**62, 2**63, 2**64, 10**400, 1e308, float("inf"), float("nan")]),
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        [
            "", "/", "//", ".", "..", "a/../b", "/a//b/", "a\0b", "\ud800", "\udcff/x", "d/" * 3000, "n" * 300, ".jobfs",
            ".jobfs/x", ".jobfs-0123456789ab-0123456789abcdef-staged-x", "good0", "good0/below", "x/y/z", "12", "-1", "1e5",
            "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2025-11-02T10:00:00+99:99", "0000-00-00T00:00:00Z",
            "+292277026596-12-04T15:30:08Z", "file", "workspaceItemFile", "directory", "readOnly", "application", "a" * 24,
        ]
    ),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)
FIELDS = (
    "type", "id", "path", "owner", "lifecycle", "permission", "createdAt", "updatedAt", "size", "mimeType", "key", "other",
)  # fmt: skip
IDS = st.sampled_from([f"odd{number:021d}" for number in range(6)])


def good(number: int) -> dict[str, Any]:
    """An item that nothing is wrong with; its content is its path."""
    return {
        "type": "workspaceItemFile" if number % 2 else "file",
        "id": f"good{number:020d}",
        "path": f"good{number}",
        "owner": "expert",
        "lifecycle": "expertJob",
        "permission": "readWrite",
        "createdAt": "2025-11-01T10:00:00.000Z",
        "updatedAt": "2025-11-02T10:00:00.250Z",
        "size": len(f"good{number}"),
        "mimeType": "text/plain",
        "key": "k",
    }


@st.composite
def odd_items(draw: st.DrawFn) -> bytes:
    """JSON of an item, of which some is not as the reference says; or of something else altogether."""
    if draw(st.integers(0, 5)) == 0:
        return _json(draw(VALUES))
    item = good(draw(st.integers(0, 9))) | {"id": draw(IDS), "path": draw(TEXTS)}
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        item[name] = draw(VALUES)
    for name in draw(st.lists(st.sampled_from(FIELDS[3:]), max_size=2)):
        item.pop(name, None)
    text = _json(item)
    extra = draw(st.sampled_from([b"", b"", b"", b'"x": %b', b'"size": %b', b'"key": %b', b'"path": %b']))
    if extra:
        depth = draw(st.sampled_from([1, 20, 150]))
        raw = draw(
            st.sampled_from(
                [b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"9" * depth, b"-" + b"9" * depth,
                 b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\x00\x01"', b'"\\ud800\\udfff\\ud800"', b"1e" + b"9" * depth, b"NaN"]
            )
        )  # fmt: skip
        text = text[:-1] + b", " + extra % raw + b"}"
    return text


class Answer(NamedTuple):
    """Bytes onto a connection, which then is closed."""

    data: bytes


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """An answer to whatever was asked."""
    body = draw(st.one_of(bodies(), bodies(), st.binary(max_size=200)))
    coding = draw(
        st.sampled_from(["", "", "", "gzip", "gzip", "x-gzip", "deflate", "br", "gzip, gzip", "identity"])
    )
    if coding and draw(st.booleans()):
        body = gzip.compress(body)
    if draw(st.integers(0, 4)) == 0 and body:
        place = draw(st.integers(0, len(body)))
        body = body[:place] + draw(st.binary(max_size=8)) + body[place + draw(st.integers(0, 8)) :]
    status = draw(st.one_of(st.just(200), st.just(200), st.sampled_from(STATUSES), st.integers(100, 999)))
    headers = [("Content-Encoding", coding)] if coding else []
    headers += draw(st.lists(st.sampled_from(HEADERS), max_size=3))
    framing, body = draw(framed(body))
    head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + framing
    data = head.encode("latin-1", "replace") + b"\r\n" + body
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, min(len(data), 300)))
        data = data[:place] + draw(st.binary(max_size=8)) + data[place + draw(st.integers(0, 8)) :]
    return Answer(data)


STATUSES = [
    100, 101, 103, 201, 204, 206, 301, 304, 307, 308, 400, 401, 403, 404, 409, 413, 415, 416, 422, 429, 500, 502, 503, 504,
    507,
]  # fmt: skip
HEADERS = [
    ("Content-Type", "text/html"), ("Content-Type", "application/json; charset=utf-16"), ("Date", "Sun, 00 Foo 0000"),
    ("Date", "Mon, 01 Jan 0001 00:00:00 GMT"), ("Date", "Fri, 31 Dec 9999 23:59:59 +9999999999"), ("Retry-After", "0"),
    ("Retry-After", "999999999"), ("Retry-After", "Mon, 01 Jan 0001 00:00:00 GMT"), ("Retry-After", "\xff"), ("Location", ""),
    ("Location", "/"), ("Location", "https://elsewhere.test/"), ("Location", "//[::1"), ("Location", "?\xff"),
    ("Content-Range", "bytes 0-4/5"), ("Content-Range", "bytes 2-4/5"), ("Content-Range", "bytes */5"),
    ("Content-Range", "bytes 0-99999999999999999999/*"), ("Connection", "keep-alive"), ("Set-Cookie", "x" * 2000),
    ("X", "y" * 30_000),
]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON that may answer any request: it has a list, an item, an instance, and what errors have."""
    items = draw(st.lists(odd_items(), max_size=4))
    single = draw(odd_items())
    fields = [
        b'"data": {"workspaceItems": [%b], "workspaceItem": %b, "workspaceInstance": {"expertJob": %b, "countItems": %b}}'
        % (b", ".join(items), single, _json(draw(VALUES)), _json(draw(NUMBERS))),
        b'"meta": %b'
        % _json(draw(st.one_of(VALUES, st.fixed_dictionaries({"total": VALUES, "take": VALUES})))),
        b'"code": %b' % _json(draw(st.one_of(st.just(404), VALUES))),
        b'"error": %b' % _json(draw(st.one_of(st.just("Not Found"), VALUES))),
        b'"reason": %b' % _json(draw(st.one_of(st.just("Path already exists"), VALUES))),
    ]
    return b"{" + b", ".join(draw(st.permutations(fields))[: draw(st.integers(0, 5))]) + b"}"


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> tuple[str, bytes]:
    """Headers that say how long a body is, rightly or not, and the body as it goes onto the connection."""
    match draw(
        st.sampled_from(["length", "length", "wrong length", "chunked", "bad chunks", "both", "none"])
    ):
        case "length":
            return f"Content-Length: {len(body)}\r\n", body
        case "wrong length":
            told = draw(
                st.sampled_from([str(len(body) + 1), str(max(0, len(body) - 1)), "-1", "1e3", "9" * 30, ""])
            )
            return f"Content-Length: {told}\r\n", body
        case "chunked":
            return "Transfer-Encoding: chunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case "bad chunks":
            size = draw(
                st.sampled_from([b"zz", b"-1", b"f" * 20, b"%x" % (len(body) + 5), b"1;" + b"x" * 500])
            )
            return "Transfer-Encoding: chunked\r\n", b"%b\r\n%b\r\n0\r\n\r\n" % (size, body)
        case "both":
            return f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n", body
        case _:
            return "", body


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode() if _short(value) else b"1e999"


def _short(value: Any) -> bool:
    # Python writes no integer of more than 4,300 digits.
    return not isinstance(value, int) or abs(value) < 10**4000

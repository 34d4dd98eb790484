"""Whatever a server sends: no exception but those of errors.py, every call ends in time, and what is right is shown."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.support.waiting import eventually

from jobfs import names
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.api.deadline import limit_time
from jobfs.content import ContentStore
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.nodes import Item, Kind, Permission

JOB = "test12345678901234567890"
#: Seconds without progress after which a client in a hurry gives up, and a patient one; what a loaded machine adds to it.
HURRY, PATIENCE, SLACK = 0.1, 20.0, 10.0


def good(number: int) -> dict[str, Any]:
    """An item that nothing is wrong with; its content is its path."""
    return {
        "type": "workspaceItemFile" if number % 2 else "file", "id": f"good{number:020d}", "path": f"good{number}",
        "owner": "expert", "lifecycle": "expertJob", "permission": "readWrite", "createdAt": "2025-11-01T10:00:00.000Z",
        "updatedAt": "2025-11-02T10:00:00.250Z", "size": len(f"good{number}"), "mimeType": "text/plain", "key": "k",
    }  # fmt: skip


GOOD = {item["id"]: item["path"] for item in map(good, range(5))}

#: Numbers and texts that parsers, clocks and file systems stumble over.
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**53, 2**63, 2**64, 1e308, float("inf"), float("nan")])
)
TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "", "/", "//", ".", "..", "a/../b", "/a//b/", "a\0b", "\ud800", "\udcff/x", "d/" * 3000, "n" * 300, ".jobfs",
        ".jobfs/x", ".jobfs-0123456789ab-0123456789abcdef-staged-x", "good0", "good0/below", "x/y/z", "12", "-1", "1e5",
        "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2025-11-02T10:00:00+99:99", "0000-00-00T00:00:00Z",
        "+292277026596-12-04T15:30:08Z", "file", "workspaceItemFile", "directory", "readOnly", "application", "a" * 24,
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
JSON = VALUES.map(lambda value: json.dumps(value).encode())
FIELDS = (*good(0), "other")
#: JSON that no parser makes of a value, `depth` deep or long.
RAW = st.builds(
    lambda text, depth: text(depth),
    st.sampled_from(
        [
            lambda depth: b"[" * depth + b"]" * depth, lambda depth: b'{"a":' * depth + b"1" + b"}" * depth,
            lambda depth: b"-" + b"9" * depth, lambda depth: b"1e" + b"9" * depth, lambda depth: b'"\xff\xfe"',
            lambda depth: b'"\xed\xa0\x80"', lambda depth: b'"\x00\x01"', lambda depth: b'"\\ud800\\udfff"', lambda depth: b"NaN",
        ]
    ),
    st.sampled_from([1, 20, 150]),
)  # fmt: skip


@st.composite
def odd_items(draw: st.DrawFn) -> bytes:
    """JSON of an item, of which some is not as the reference says; or of something else altogether."""
    if draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    item = good(draw(st.integers(0, 9))) | {"id": f"odd{draw(st.integers(0, 5)):021d}", "path": draw(TEXTS)}
    item |= draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
    for name in draw(st.lists(st.sampled_from(FIELDS[3:]), max_size=2)):
        item.pop(name, None)
    extra = draw(st.sampled_from([b"", b"", b', "x": %b', b', "size": %b', b', "key": %b', b', "path": %b']))
    return json.dumps(item).encode()[:-1] + (extra % draw(RAW) if extra else b"") + b"}"


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON that may answer any request: it has a list, an item, an instance, and what errors have."""
    parts = (b", ".join(draw(st.lists(odd_items(), max_size=4))), draw(odd_items()), draw(JSON), draw(JSON))
    fields = [
        b'"data": {"workspaceItems": [%b], "workspaceItem": %b, '
        b'"workspaceInstance": {"expertJob": %b, "countItems": %b}}' % parts,
        *(b'"%b": %b' % (name, draw(JSON)) for name in (b"meta", b"code", b"error", b"reason")),
    ]  # fmt: skip
    return b"{" + b", ".join(draw(st.permutations(fields))[: draw(st.integers(0, 5))]) + b"}"


HEADERS = [
    "Content-Type: text/html", "Content-Type: application/json; charset=utf-16", "Date: Sun, 00 Foo 0000",
    "Date: Fri, 31 Dec 9999 23:59:59 +9999999999", "Retry-After: 0", "Retry-After: 999999999", "Retry-After: \xff",
    "Retry-After: Mon, 01 Jan 0001 00:00:00 GMT", "Location: ", "Location: /", "Location: https://elsewhere.test/",
    "Location: //[::1", "Location: ?\xff", "Content-Range: bytes 0-4/5", "Content-Range: bytes 2-4/5",
    "Content-Range: bytes */5", "Content-Range: bytes 0-99999999999999999999/*", "Connection: keep-alive",
    "Set-Cookie: " + "x" * 2000, "X: " + "y" * 30_000, "Content-Encoding: gzip", "Content-Encoding: x-gzip",
    "Content-Encoding: deflate", "Content-Encoding: br", "Content-Encoding: gzip, gzip",
]  # fmt: skip
#: How long a body is said to be, rightly or not, and the body as it goes onto the connection.
FRAMINGS: list[Callable[[bytes], tuple[str, bytes]]] = [
    lambda body: (f"Content-Length: {len(body)}", body),
    lambda body: (f"Content-Length: {len(body) + 1}", body),
    lambda body: (f"Content-Length: {max(0, len(body) - 1)}", body),
    *(
        lambda body, declared=declared: (f"Content-Length: {declared}", body)
        for declared in ("-1", "1e3", "9" * 30, "")
    ),
    lambda body: ("Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    *(
        lambda body, size=size: ("Transfer-Encoding: chunked", b"%b\r\n%b\r\n0\r\n\r\n" % (size, body))
        for size in (b"zz", b"-1", b"f" * 20, b"1;" + b"x" * 500)
    ),
    lambda body: (f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked", body),
    lambda body: ("X: none", body),
]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer to whatever was asked, of any status, headers, framing and bytes."""

    def torn(data: bytes, limit: int) -> bytes:
        """Now and then with something else in the middle of it."""
        if draw(st.integers(0, 6)):
            return data
        place = draw(st.integers(0, min(len(data), limit)))
        return data[:place] + draw(st.binary(max_size=8)) + data[place + draw(st.integers(0, 8)) :]

    body = draw(bodies() | bodies() | st.binary(max_size=200))
    body = torn(gzip.compress(body) if draw(st.integers(0, 3)) == 0 else body, len(body))
    status = draw(
        st.just(200)
        | st.sampled_from([100, 204, 206, 301, 307, 401, 404, 416, 429, 503])
        | st.integers(100, 999)
    )
    framing, body = draw(st.sampled_from(FRAMINGS))(body)
    head = "\r\n".join(
        [f"HTTP/1.1 {status} X", *draw(st.lists(st.sampled_from(HEADERS), max_size=3)), framing]
    )
    return torn(head.encode("latin-1") + b"\r\n\r\n" + body, 300)


class Hostile(socketserver.ThreadingTCPServer):
    """A server of one answer a connection: `answer` to everything; if None, as the API would, with `odd` items first."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.answer: bytes | None = None
        self.odd: list[bytes] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def reply(self, target: str) -> bytes:
        """What goes onto the connection."""
        if self.answer is not None:
            return self.answer
        path = urlsplit(target).path.partition("/workspace_instance/items/")[2]
        asked = parse_qs(urlsplit(target).query)
        skip, take = (int(asked.get(name, [usual])[0]) for name, usual in (("skip", "0"), ("take", "100")))
        items = [*self.odd, *(json.dumps(good(number)).encode() for number in range(len(GOOD)))]
        status = b"200 OK"
        if path.endswith("/download"):
            body = GOOD.get(path.partition("/")[0], "").encode()
        elif path in ("", "find"):
            # Of a find all is an answer. A redirect may have lost the query.
            part = b", ".join(items[skip:][:take])
            body = b'{"data": {"workspaceItems": [%b]}, "meta": {"total": %d}}' % (part, len(items))
        else:
            status = b"404 Not Found"
            body = b'{"code": 404, "error": "Not Found", "reason": "Workspace item not found"}'
        return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Hostile)
        with suppress(OSError, ValueError):
            target, length = self.rfile.readline(65536).split(b" ")[1].decode("ascii"), 0
            while (line := self.rfile.readline(65536)) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            self.wfile.write(self.server.reply(target))
            self.request.shutdown(socket.SHUT_WR)


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    """It is written no line for each thing that is wrong."""
    logging.disable(logging.CRITICAL)
    server = Hostile()
    yield server
    server.shutdown()
    server.server_close()
    logging.disable(logging.NOTSET)


Stack = tuple[Client, Namespace, ContentStore]


@pytest.fixture
def stack(hostile: Hostile, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """What a mount has between its operations and the network; the parameter is --timeout."""
    url, timeout = f"http://127.0.0.1:{hostile.server_address[1]}", request.param
    with (
        closing(Client(url, JOB, fixed_key("key"), timeout=timeout, max_connections=4)) as client,
        closing(
            ContentStore(client, tmp_path / "cache", owner=tmp_path, limit=1 << 20, timeout=timeout)
        ) as content,
    ):
        namespace = Namespace(client, ttl=0.0, kernel_timeout=0.0, stale_if_error=0.0, pause=lambda _: None)
        yield client, namespace, content


def check_item(item: Item) -> None:
    """What others do with an item: put it into a journal, a name of a file, an attribute."""
    for text in (item.id, item.updated_at, item.created_at, item.owner, item.mime_type, item.key):
        text.encode()
    item.updated_ns.to_bytes(8, "little", signed=True)
    assert item.size is None or 0 <= item.size < 2**63


#: What fails is not made smaller: each attempt may wait for half a minute, and together longer than a test may take.
quickly = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@pytest.mark.parametrize("stack", [PATIENCE], indirect=True)
@settings(quickly)
@given(odd=st.lists(odd_items(), max_size=8))
def test_a_malformed_item_hides_at_most_itself(hostile: Hostile, stack: Stack, odd: list[bytes]) -> None:
    """vfs/semantics.md 1.21: unknown fields and unknown item types do not break a listing."""
    hostile.odd = odd
    _, namespace, content = stack
    namespace.refresh()
    shown = namespace.children("", max_age=60.0)
    for name, item in shown.items():
        assert names.hostile_reason(name) is None
        check_item(item)
    for item_id, path in GOOD.items():
        found = namespace.lookup(path)
        assert found is not None
        if found.id == item_id:  # else an odd item that makes sense, and is newer
            assert path in shown
            with content.open(found) as handle:
                assert handle.read(0, 100) == path.encode()
    namespace.status()


_versions = itertools.count()


@pytest.mark.parametrize("stack", [HURRY], indirect=True)
@settings(quickly, max_examples=15)
@given(answer=answers())
def test_any_response_leads_to_a_result_or_an_error_in_time(
    hostile: Hostile, stack: Stack, tmp_path: Path, answer: bytes
) -> None:
    """vfs/semantics.md 5.8: a reply that does not match the contract is EIO, and the next one is read as ever."""
    client, namespace, content = stack
    source, item_id = tmp_path / "source", next(iter(GOOD))
    source.write_bytes(b"hello")
    # A version that no earlier answer has described.
    item = Item(item_id, Kind.FILE, "good0", updated_at=f"version {next(_versions)}")

    def download(start: int) -> None:
        with client.download(item_id, start) as body:
            list(body.chunks())

    calls: list[Callable[[], object]] = [
        client.get_instance, lambda: client.list_page(100, 0), lambda: client.find("good0"), lambda: client.get(item_id),
        lambda: client.create_file("x", source, 5, Permission.READ_WRITE),
        lambda: client.create_directory("x", Permission.READ_WRITE),
        lambda: client.update(item_id, path="x"), lambda: client.delete(item_id), lambda: download(0), lambda: download(2),
        namespace.refresh, lambda: namespace.children(""), lambda: namespace.lookup("good0"), lambda: content.measure_size(item),
    ]  # fmt: skip
    hostile.answer = answer
    for call in calls:
        began = time.monotonic()
        # As a program that waits: the background would leave the server alone after the first `Retry-After`.
        with suppress(JobfsError), limit_time(HURRY):
            result = call()
            if isinstance(result, Item):
                check_item(result)
        assert time.monotonic() - began < HURRY + SLACK
    hostile.answer = client.health.unreachable_reason = (
        None  # in a mount, the background finds out that it is back
    )

    def recovered() -> bool:
        with suppress(JobfsError), limit_time(HURRY):
            namespace.refresh()
            return set(GOOD.values()) <= namespace.children("", max_age=60.0).keys()
        return False

    eventually(recovered, "what is right is listed again")

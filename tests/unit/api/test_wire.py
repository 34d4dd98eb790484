"""One request: what is sent again, what an answer means, redirects, the key; and what only a connection can do wrong."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobfs import errors
from jobfs.api.access import fixed_key
from jobfs.api.client import Client
from jobfs.api.connection_queue import Priority
from jobfs.api.deadline import limit_time
from jobfs.api.wire import HeldConnection
from jobfs.nodes import Item, Permission

from .world import ID, JOB, KEY, ROOT, Chunks, Create, Make, Script, failure, many, one, wire_item

RW = Permission.READ_WRITE
HERE = "https://api.example.test"

UNSENT = [
    httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("busy"),
    httpx.ProxyError("away"),
]  # fmt: skip
LOST = [
    httpx.ReadTimeout("slow"), httpx.ReadError("reset"), httpx.WriteError("reset"),
    httpx.RemoteProtocolError("closed"),
    *(failure(status) for status in (408, 500, 503, 599)),
    httpx.Response(404, text="no healthy upstream"),
]  # fmt: skip
CHANGES: list[Callable[[Client], object]] = [
    lambda client: client.create_directory("d", RW), lambda client: client.update(ID, path="b"),
    lambda client: client.delete(ID),
]  # fmt: skip


def cut(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, stream=Chunks(b'{"data"', httpx.ReadError("reset")))


@pytest.mark.parametrize(
    "trouble", [*UNSENT, *LOST, failure(429), failure(503, headers={"retry-after": "0"}), cut]
)
def test_a_read_is_retried(make: Make, trouble: Any) -> None:
    """vfs/semantics.md 5: reading is retried with backoff and jitter within the deadline."""
    script = Script(trouble, trouble, one())
    assert make(script).get(ID).path == "a.txt"
    assert len(script.requests) == 3


@pytest.mark.parametrize("trouble", [*UNSENT, failure(429), failure(503, headers={"retry-after": "0"})])
def test_a_changing_request_is_retried_if_it_cannot_have_taken_effect(
    make: Make, create: Create, trouble: httpx.Response | Exception
) -> None:
    """vfs/semantics.md 5.6, 5.16: 429, 503 with Retry-After, a connection that was never established."""
    script = Script(trouble, one())
    create(make(script))
    assert script.bodies[0] == script.bodies[1]
    assert len(script.requests) == 2


@pytest.mark.parametrize("trouble", LOST)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changing_request_whose_answer_is_lost_is_not_repeated(
    make: Make, trouble: httpx.Response | Exception, change: Callable[[Client], object]
) -> None:
    """vfs/semantics.md 5.7: a changing request whose answer was lost is never blindly repeated."""
    script = Script(trouble)
    client = make(script)
    with pytest.raises(errors.AnswerLostError) as caught:
        change(client)
    assert len(script.requests) == 1
    slow = isinstance(trouble, httpx.TimeoutException)
    assert caught.value.errno == (errno.ETIMEDOUT if slow else errno.EIO)


@pytest.mark.parametrize("refusal", [None, failure(400, "Bad path")])
def test_all_requests_of_a_turn_use_the_held_connection(make: Make, refusal: httpx.Response | None) -> None:
    """save/protocol.md R8: also those that find out what a refusal means; with one connection nothing else could be sent."""
    script = Script(
        one(), *([refusal, many(), many(wire_item(path="d", type="directory"))] if refusal else [one()])
    )
    client = make(script, max_connections=1)
    with client.hold_connection("x") as turn:
        assert client.connections.has_waiter_before(priority=len(Priority)) is False
        assert client.get(ID, connection=turn).path == "a.txt"
        with pytest.raises(errors.BadRequestError) if refusal else nullcontext():
            client.update(ID, path="d/a.txt" if refusal else "a.txt", connection=turn)
    with client.hold_connection("x") as turn:
        client.delete(ID, connection=turn)
    client.delete(ID)  # the connection was given back


def test_a_wait_for_two_connections_ends_with_the_call_that_waits(make: Make) -> None:
    """vfs/semantics.md 3.15: one deadline for each call; in the background it may last as long as the connections are in use."""
    client = make(Script(), max_connections=4)
    closing = threading.Timer(10, client.close)
    with ExitStack() as stack, limit_time(5):
        for _ in range(4):
            stack.enter_context(client.hold_connection("x"))
        stack.callback(closing.cancel)
        closing.start()
        with limit_time(0.05), pytest.raises(errors.OutOfTimeError):
            stack.enter_context(client.hold_two_connections("x"))


@pytest.mark.parametrize("trouble", [*UNSENT, failure(429), failure(503, headers={"retry-after": "0"})])
@pytest.mark.parametrize("request_", [
    lambda client, turn: client.get(ID, connection=turn), lambda client, turn: client.delete(ID, connection=turn),
    lambda client, turn: client.update(ID, permission=RW, connection=turn),
])  # fmt: skip
def test_a_request_of_a_turn_is_sent_once(
    make: Make, request_: Callable[[Client, HeldConnection], object], trouble: httpx.Response | Exception
) -> None:
    """save/protocol.md R8: another attempt would need another look."""
    script = Script(trouble, one())
    client = make(script)
    with client.hold_connection("x") as turn, pytest.raises(errors.UnavailableError):
        request_(client, turn)
    assert len(script.requests) == 1


@pytest.mark.parametrize("trouble", [*UNSENT, failure(503), httpx.ReadTimeout("slow")])
def test_the_last_error_is_raised_after_all_attempts(make: Make, trouble: httpx.Response | Exception) -> None:
    """vfs/semantics.md 1.14: where there is no way to the server, the network is unreachable; 3: every call has a deadline."""
    script = Script(trouble)
    with pytest.raises(errors.UnavailableError, match="looking at item") as caught:
        make(script, timeout=1.0).get(ID)
    slow, away = httpx.TimeoutException, (httpx.ConnectError, httpx.ProxyError)
    number = errno.ETIMEDOUT if isinstance(trouble, slow) else errno.ENETUNREACH
    assert caught.value.errno == (number if isinstance(trouble, (slow, *away)) else errno.EIO)
    assert len(script.requests) > 2


def test_retry_after_is_honoured_or_fails_at_once_with_the_reason(make: Make) -> None:
    script = Script(failure(503, headers={"retry-after": "0.2"}), one("b"))
    began = time.monotonic()
    make(script).update(ID, path="b")
    assert time.monotonic() - began >= 0.2
    script = Script(failure(503, "maintenance", headers={"retry-after": "3600"}))
    with pytest.raises(errors.UnavailableError, match="maintenance") as caught:
        make(script).update(ID, path="b")
    assert (caught.type, caught.value.errno) == (errors.UnavailableError, errno.EIO)
    assert len(script.requests) == 1


def test_a_web_page_of_a_gateway_is_not_a_reply(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 5.8: a reply that is not JSON is EIO and a log line that names the endpoint and the mismatch."""
    client = make(Script(httpx.Response(200, html="<html>please log in</html>")))
    with pytest.raises(errors.ContractError, match=r"listing the workspace: .*not JSON"):
        client.list_page(100, 0)
    assert "listing the workspace" in caplog.text
    assert not client.health.answering
    with pytest.raises(errors.AnswerLostError, match="not JSON"):
        client.create_directory("d", RW)
    assert "making directory d: " in caplog.text


def test_the_key_is_in_no_message_or_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """vfs/semantics.md 6: the API key is never in a log or an error message, even where the server repeats it."""
    caplog.set_level(logging.DEBUG)
    answers: list[httpx.Response | Exception] = [
        failure(401, f"Invalid API key {KEY}"),
        failure(422, {"authorization": f"Bearer {KEY}"}),
        httpx.Response(500, text=KEY),
        redirect(f"https://evil.test/?key={KEY}"),
        httpx.RemoteProtocolError(f"illegal header line: {KEY}"),
        httpx.Response(200, json={"data": {"workspaceItem": {"type": KEY}}}),
    ]
    for answer in answers:
        client = make(Script(answer), timeout=0.02)
        with pytest.raises(errors.ApiError) as caught:
            client.get(ID)
        assert KEY not in f"{caught.value} {caught.value!r} {client!r} {client.health.last_error}"
        assert caught.value.__cause__ is None
    client = make(Script(httpx.ProxyError(KEY)), clock=itertools.count(1.0, 0.5).__next__)
    with pytest.raises(errors.UnavailableError):
        client.get(ID)
    assert client.health.unreachable_reason == "no connection: ***"
    assert KEY not in caplog.text
    assert "***" in caplog.text


def test_each_request_is_a_line_of_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="jobfs.api")
    script = Script(many(wire_item("dir/a.txt")))
    make(script, timeout=60.0).find("dir/a.txt")
    sent = script.requests[0].headers
    assert script.requests[0].extensions["timeout"]["connect"] == 10.0, "time is left if a SYN is lost"
    assert (sent["authorization"], sent["accept-encoding"]) == (f"Bearer {KEY}", "gzip")
    assert re.fullmatch(r"GET looking up dir/a.txt: 200, [0-9.]+ ms", caplog.messages[0])


def test_closing_the_client_ends_the_wait_for_a_retry(make: Make) -> None:
    asked = threading.Event()

    def server(request: httpx.Request) -> httpx.Response:
        asked.set()
        return failure(503, headers={"retry-after": "100"})

    client = make(server, timeout=300.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, ID)
        assert asked.wait(10)
        client.close()
        assert isinstance(waiting.exception(10), errors.UnavailableError)


def redirect(location: str, status: int = 307, **body: Any) -> httpx.Response:
    return httpx.Response(status, headers={"location": location} if location else {}, **body)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("origin", ["", f"{HERE}:443"])
def test_a_redirect_between_forms_of_a_path_repeats_the_whole_request(
    make: Make, create: Create, status: int, origin: str
) -> None:
    script = Script(redirect(f"{origin}{ROOT}items", status), one())
    create(make(script))
    assert script.asked == ["POST items/", "POST items"]
    assert script.bodies[0] == script.bodies[1]
    assert b"hello" in script.bodies[0]


@pytest.mark.parametrize("location", [
    f"{ROOT}items/moved", f"https://evil.example.test{ROOT}items/{ID}/", f"{HERE}.evil.test{ROOT}items/{ID}/",
    f"http://api.example.test{ROOT}items/{ID}/", f"{HERE}:8443{ROOT}items/{ID}/", f"//evil.example.test{ROOT}items/{ID}/",
    f"https://user@api.example.test{ROOT}items/{ID}/", "file:///etc/passwd", "", "https://[",
])  # fmt: skip
def test_no_other_redirect_is_followed(make: Make, caplog: pytest.LogCaptureFixture, location: str) -> None:
    """vfs/semantics.md 6.11: the key is never sent after a redirect to another origin (5: EIO and a log line)."""
    page = Chunks(b"<html>moved</html>")
    script = Script(lambda request: redirect(location, stream=page), one())
    with pytest.raises(errors.ContractError, match=r"redirects \(307\) to"):
        make(script).get(ID)
    assert len(script.requests) == 1
    assert page.closed, "its connection serves no other request"
    assert f"looking at item {ID}: " in caplog.text
    assert KEY not in caplog.text


def test_a_loop_of_redirects_ends(make: Make) -> None:
    script = Script(redirect(f"{ROOT}items/{ID}/"), redirect(f"{ROOT}items/{ID}"))
    with pytest.raises(errors.ContractError, match="in a circle"):
        make(script).get(ID)
    assert script.asked == [f"GET items/{ID}", f"GET items/{ID}/"]


def test_the_form_of_collection_urls_is_remembered_until_it_changes(make: Make) -> None:
    made = one("d", type="workspaceItemDirectory")
    away, back = redirect(f"/base{ROOT}items?take=5&skip=0"), redirect(f"/base{ROOT}items/")
    script = Script(away, many(total=1), made, back, made)
    client = make(script, base_url=f"{HERE}/base")
    client.list_page(5, 0)
    for _ in range(3):
        client.create_directory("d", RW)
    paths = [request.url.path.removeprefix(f"/base{ROOT}") for request in script.requests]
    assert paths == ["items/", "items", "items", "items", "items/", "items/"]


Talk = Callable[[socket.socket], None]


class Listener(socketserver.ThreadingTCPServer):
    """Gives each connection to a function."""

    daemon_threads = True

    def __init__(self, talk: Talk) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.connections = 0
        self._talk = talk

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        with suppress(OSError):
            self._talk(request)

    def client(self, timeout: float = 10.0) -> Client:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        return Client(url, JOB, fixed_key(KEY), timeout=timeout)


Serve = Callable[[Talk], Listener]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts listeners; they end with the test."""
    with ExitStack() as stack:

        def start(talk: Talk) -> Listener:
            listener = stack.enter_context(Listener(talk))
            stack.callback(listener.shutdown)
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
            return listener

        yield start


@pytest.fixture
def done(serve: Serve) -> Iterator[threading.Event]:
    """For servers that wait until the test is over."""
    over = threading.Event()
    yield over
    over.set()


def read_request(connection: socket.socket, pause: float = 0.0) -> str:
    """The first line of one request off the socket, with a pause before each piece of its body; OSError if it ends early."""

    def some() -> bytes:
        if not (data := connection.recv(65536)):
            raise ConnectionError("the client closed the connection")
        return data

    data = b""
    while b"\r\n\r\n" not in data:
        data += some()
    head, _, body = data.partition(b"\r\n\r\n")
    declared = re.search(rb"(?i)content-length: *(\d+)", head)
    left = int(declared[1]) - len(body) if declared else 0
    while left > 0:
        time.sleep(pause)
        left -= len(some())
    return head.partition(b"\r\n")[0].decode()


def send_answer(connection: socket.socket, answer: httpx.Response) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    connection.sendall(f"HTTP/1.1 {answer.status_code} X\r\n{headers}\r\n".encode() + answer.content)


def test_a_silent_server_does_not_hang_a_call(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 3: no call can hang for ever; a hung server makes ETIMEDOUT."""

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        done.wait(10)

    server = serve(silent)
    for call, error in (("get", errors.UnavailableError), ("delete", errors.AnswerLostError)):
        with server.client(timeout=1.0) as client:
            with pytest.raises(error) as caught:
                getattr(client, call)(ID)
            assert (caught.type, caught.value.errno) == (error, errno.ETIMEDOUT)
            # It has been silent for as long as a call may wait: it is asked whether it answers, and the next one is not sent.
            with pytest.raises(errors.HeldBackError) as late:
                client.delete(ID)
            assert late.value.errno == errno.ENETUNREACH


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
#: How an answer begins, and what comes then, again and again.
DRIPS: dict[str, tuple[bytes, bytes]] = {
    "status line": (b"HTTP/1.1 200 ", b"O"), "header": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "interim answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "size of a chunk": (CHUNKED + b"1;", b"x"), "trailer": (CHUNKED + b"0\r\nX: ", b"y"),
    "nothing": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123", b""),
}  # fmt: skip


@pytest.mark.parametrize("drip", DRIPS)
@pytest.mark.parametrize(("what", "pause"), [("delete", 0.02), ("download", 0.0)])
def test_a_reply_that_never_completes_its_headers_times_out(
    serve: Serve, done: threading.Event, what: str, drip: str, pause: float
) -> None:
    """vfs/semantics.md 3: no call can hang for ever, however steadily the server keeps sending."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        head, again = DRIPS[drip]
        with suppress(OSError):
            connection.sendall(head)
            while not done.wait(pause if again else 10):
                connection.sendall(again)

    with serve(talk).client(timeout=0.3) as client:
        began = time.monotonic()
        with suppress(errors.ApiError):
            if what == "download":
                with client.download(ID) as body:
                    list(body.chunks())
                pytest.fail("a download without an end")
            else:
                client.delete(ID)
        assert time.monotonic() - began < 5


def test_a_body_is_read_for_as_long_as_its_bytes_arrive(serve: Serve) -> None:
    """vfs/semantics.md 3: seconds without progress; the time that the reader takes for itself does not count."""

    def talk(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(0.2)
            connection.sendall(b"x")

    with serve(talk).client(timeout=1.0) as client, client.download(ID) as body:
        chunks: list[bytes] = []
        for chunk in body.chunks():
            if not chunks:
                time.sleep(1.3)
            chunks.append(chunk)
    assert b"".join(chunks) == b"x" * 8


def falls_silent(done: threading.Event) -> tuple[threading.Event, Talk]:
    """A server that reads one request and answers nothing until `done`, and the event that it has read it."""
    asked = threading.Event()

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        done.wait(30)

    return asked, silent


def test_a_turn_says_when_its_request_was_handed_to_the_socket(serve: Serve, done: threading.Event) -> None:
    """save/protocol.md R13: a promote is sent so long after its set-aside."""
    asked, silent = falls_silent(done)
    client = serve(silent).client(timeout=300.0)
    with client, ThreadPoolExecutor(1) as pool, client.hold_connection("x") as turn:
        assert not turn.sent_event.is_set()
        call = pool.submit(client.update, ID, path="b.txt", connection=turn)
        assert asked.wait(10)
        assert turn.sent_event.wait(10)
        assert not call.done()
        client.abort_requests()


def test_aborted_requests_end_at_once(serve: Serve, done: threading.Event) -> None:
    """vfs/semantics.md 6: a mount that has to end waits for no silent server."""
    asked, silent = falls_silent(done)
    with serve(silent).client(timeout=300.0) as client, ThreadPoolExecutor(2) as pool:
        calls: list[Future[Any]] = [pool.submit(client.get, ID), pool.submit(client.delete, ID)]
        assert asked.wait(10)
        client.abort_requests()
        for call in calls:
            assert isinstance(call.exception(10), errors.UnavailableError)
        with pytest.raises(errors.UnavailableError, match="closed"):
            client.get(ID)


def test_a_connection_is_reused_after_a_complete_download(serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        while True:
            asked = read_request(connection)
            send_answer(connection, httpx.Response(200, content=b"hello") if "download" in asked else one())

    server = serve(talk)
    with server.client() as client:
        for _ in range(3):
            with client.download(ID) as download:
                assert b"".join(download.chunks()) == b"hello"
            client.get(ID)
    assert server.connections == 1


def upload(client: Client, path: Path, size: int) -> Item:
    with open(path / "x", "wb") as large:
        large.truncate(size)
    return client.create_file("a.txt", path / "x", size, Permission.READ_WRITE)


def test_a_refusal_sent_before_the_end_of_an_upload_is_received(serve: Serve, tmp_path: Path) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        send_answer(connection, failure(413, "at most 1 MiB"))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    with serve(refuse).client() as client, pytest.raises(errors.TooLargeError, match="at most 1 MiB"):
        upload(client, tmp_path, 32 << 20)


def test_an_upload_that_progresses_may_outlast_the_deadline(serve: Serve, tmp_path: Path) -> None:
    """vfs/semantics.md 3: the deadline counts time without progress."""
    size = 48 << 20

    def slowly(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        read_request(connection, 0.004)
        send_answer(connection, one(size=size))

    with serve(slowly).client(timeout=2.0) as client, limit_time(2.0):
        assert upload(client, tmp_path, size).id == ID

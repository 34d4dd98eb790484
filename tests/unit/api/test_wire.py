from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import jobfs
from jobfs import errors
from jobfs.api.client import Client
from jobfs.nodes import Permission

from .conftest import ID, KEY, ROOT, Chunks, MakeClient, Script, failure, many, one, wire_item

RW = Permission.READ_WRITE

UNSENT = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.PoolTimeout("busy"),
    httpx.ProxyError("away"),
]
LOST = [
    httpx.ReadTimeout("slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.RemoteProtocolError("closed"),
    *(failure(status) for status in (408, 500, 503, 599)),
    httpx.Response(404, text="no healthy upstream"),
]
CHANGES: list[Callable[[Client], object]] = [
    lambda client: client.create_directory("d", RW),
    lambda client: client.update(ID, path="b"),
    lambda client: client.delete(ID),
]


@pytest.mark.parametrize(
    "trouble", [*UNSENT, *LOST, failure(429), failure(503, headers={"retry-after": "0"})]
)
def test_a_read_is_retried(make_client: MakeClient, trouble: httpx.Response | Exception) -> None:
    """vfs/semantics.md 5: reading is retried with backoff and jitter within the deadline."""
    script = Script(trouble, trouble, one())
    assert make_client(script).get(ID).path == "a.txt"
    assert len(script.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 507])
def test_a_refusal_is_not_repeated(make_client: MakeClient, status: int) -> None:
    """vfs/semantics.md 5: 401: no retry storm; what was refused for good is not asked for again."""
    script = Script(failure(status))
    with pytest.raises(errors.ApiError):
        make_client(script).get(ID)
    assert len(script.requests) == 1


@pytest.mark.parametrize("trouble", [*UNSENT, failure(429), failure(503, headers={"retry-after": "0"})])
def test_a_changing_request_is_retried_where_nothing_can_have_happened(
    make_client: MakeClient, tmp_path: Path, trouble: httpx.Response | Exception
) -> None:
    """vfs/semantics.md 5.6, 5.15: 429, 503 with Retry-After, a connection that was never established."""
    (tmp_path / "x").write_bytes(b"hello")
    script = Script(trouble, one())
    make_client(script).create_file("a.txt", tmp_path / "x", 5, RW)
    assert script.bodies[0] == script.bodies[1]
    assert len(script.requests) == 2


@pytest.mark.parametrize("trouble", LOST)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changing_request_whose_answer_is_lost_is_not_repeated(
    make_client: MakeClient, trouble: httpx.Response | Exception, change: Callable[[Client], object]
) -> None:
    """vfs/semantics.md 5.7: a changing request whose answer was lost is never blindly repeated."""
    script = Script(trouble)
    client = make_client(script)
    with pytest.raises(errors.AnswerLostError) as caught:
        change(client)
    assert len(script.requests) == 1
    slow = isinstance(trouble, httpx.TimeoutException)
    assert caught.value.errno == (errno.ETIMEDOUT if slow else errno.EIO)


@pytest.mark.parametrize("trouble", [httpx.ConnectError("refused"), failure(503), httpx.ReadTimeout("slow")])
def test_after_the_deadline_the_last_error_is_told(
    make_client: MakeClient, trouble: httpx.Response | Exception
) -> None:
    """vfs/semantics.md 3: every call has a deadline."""
    script = Script(trouble)
    with pytest.raises(errors.UnavailableError, match="get item") as caught:
        make_client(script, timeout=1.0).get(ID)
    numbers = {httpx.ConnectError: errno.ENETUNREACH, httpx.ReadTimeout: errno.ETIMEDOUT}
    assert caught.value.errno == numbers.get(type(trouble), errno.EIO)  # type: ignore[arg-type]
    assert len(script.requests) > 2


def test_retry_after_is_honoured_or_fails_at_once_with_the_reason(make_client: MakeClient) -> None:
    script = Script(failure(503, headers={"retry-after": "0.2"}), one("b"))
    began = time.monotonic()
    make_client(script).update(ID, path="b")
    assert time.monotonic() - began >= 0.2
    script = Script(failure(503, "maintenance", headers={"retry-after": "3600"}))
    with pytest.raises(errors.UnavailableError, match="maintenance") as caught:
        make_client(script).update(ID, path="b")
    assert (caught.type, caught.value.errno) == (errors.UnavailableError, errno.EIO)
    assert len(script.requests) == 1


def test_a_web_page_instead_of_the_api_is_no_answer(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 5.8: a reply that is not JSON is EIO and a log line that names the endpoint and the mismatch."""
    client = make_client(Script(httpx.Response(200, html="<html>please log in</html>")))
    with pytest.raises(errors.ContractError, match=r"list items.*not JSON"):
        client.list_page(100, 0)
    assert "list items" in caplog.text
    assert not client.health.answering
    with pytest.raises(errors.AnswerLostError, match="not JSON"):
        client.create_directory("d", RW)
    assert "create directory 'd'" in caplog.text


def test_a_body_that_breaks_off_is_asked_for_again(make_client: MakeClient) -> None:
    broken = Chunks(b'{"data"', httpx.ReadError("reset"))
    script = Script(lambda request: httpx.Response(200, stream=broken), one())
    assert make_client(script).get(ID).id == ID


def test_the_key_is_in_no_message_and_no_log(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
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
        client = make_client(Script(answer), timeout=0.02)
        with pytest.raises(errors.ApiError) as caught:
            client.get(ID)
        assert KEY not in f"{caught.value} {caught.value!r} {client!r} {client.health.last_error}"
        assert caught.value.__cause__ is None
    assert KEY not in caplog.text
    assert "***" in caplog.text


def test_a_request_has_its_headers_and_is_one_line_in_the_debug_log(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="jobfs.api")
    script = Script(many(wire_item("dir/a.txt")))
    make_client(script).find("dir/a.txt")
    headers = script.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["host"] == "api.example.test"
    assert headers["accept-encoding"] == "gzip"
    assert headers["user-agent"] == f"jobfs/{jobfs.__version__}"
    lines = [record.getMessage() for record in caplog.records if record.name == "jobfs.api"]
    assert lines[0].startswith("GET find item 'dir/a.txt': 200, ")
    assert lines[0].endswith(" ms")


def test_closing_ends_the_wait_for_a_retry(make_client: MakeClient) -> None:
    asked = threading.Event()

    def server(request: httpx.Request) -> httpx.Response:
        asked.set()
        return failure(503, headers={"retry-after": "100"})

    client = make_client(server, timeout=300.0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, ID)
        assert asked.wait(10)
        client.close()
        assert isinstance(waiting.exception(10), errors.UnavailableError)


# Redirects


HERE = "https://api.example.test"


def redirect(location: str, status: int = 307) -> httpx.Response:
    return httpx.Response(status, headers={"location": location} if location else {})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("origin", ["", f"{HERE}:443"])
def test_a_redirect_to_the_other_form_of_a_path_is_followed_with_all_that_was_sent(
    make_client: MakeClient, tmp_path: Path, status: int, origin: str
) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    script = Script(redirect(f"{origin}{ROOT}items", status), one())
    make_client(script).create_file("a.txt", tmp_path / "x", 5, RW)
    assert script.asked == ["POST items/", "POST items"]
    assert script.bodies[0] == script.bodies[1]
    assert b"hello" in script.bodies[0]


@pytest.mark.parametrize(
    "location",
    [
        f"{ROOT}items/moved",
        f"https://evil.example.test{ROOT}items/{ID}/",
        f"{HERE}.evil.test{ROOT}items/{ID}/",
        f"http://api.example.test{ROOT}items/{ID}/",
        f"{HERE}:8443{ROOT}items/{ID}/",
        f"//evil.example.test{ROOT}items/{ID}/",
        f"https://user@api.example.test{ROOT}items/{ID}/",
        "file:///etc/passwd",
        "",
        "https://[",
    ],
)
def test_no_other_redirect_is_followed(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture, location: str
) -> None:
    """vfs/semantics.md 6.11: the key is never sent after a redirect to another origin (5: EIO and a log line)."""
    script = Script(redirect(location), one())
    with pytest.raises(errors.ContractError, match=r"a redirect \(307\) to"):
        make_client(script).get(ID)
    assert len(script.requests) == 1
    assert "get item" in caplog.text
    assert KEY not in caplog.text


def test_redirects_in_a_circle_end(make_client: MakeClient) -> None:
    script = Script(redirect(f"{ROOT}items/{ID}/"), redirect(f"{ROOT}items/{ID}"))
    with pytest.raises(errors.ContractError, match="in a circle"):
        make_client(script).get(ID)
    assert script.asked == [f"GET items/{ID}", f"GET items/{ID}/"]


def test_the_form_of_collection_urls_is_remembered_until_the_server_changes_its_mind(
    make_client: MakeClient,
) -> None:
    made = one("d", type="workspaceItemDirectory")
    answers = (
        redirect(f"/base{ROOT}items?take=5&skip=0"),
        many(total=1),
        made,
        redirect(f"/base{ROOT}items/"),
        made,
    )
    script = Script(*answers)
    client = make_client(script, base_url=f"{HERE}/base")
    client.list_page(5, 0)
    for _ in range(3):
        client.create_directory("d", RW)
    paths = [request.url.path.removeprefix(f"/base{ROOT}") for request in script.requests]
    assert paths == ["items/", "items", "items", "items", "items/", "items/"]

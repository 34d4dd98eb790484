"""The bench's relay is the line it says it is."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_BODY = bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_BODY)))
        self.end_headers()
        self.wfile.write(_BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextmanager
def relay(to: int, rtt: float) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "_bench.relay", str(to), str(rtt)],
        env={**os.environ, "PYTHONPATH": str(_ROOT / "scripts")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 0, "it ends with its stdin"


def ask(process: subprocess.Popen[str], **changes: float) -> dict[str, int]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(changes) + "\n")
    process.stdin.flush()
    counts: dict[str, int] = json.loads(process.stdout.readline())
    return counts


def fetch(connection: http.client.HTTPConnection) -> float:
    """Seconds for one request; the body is right."""
    began = time.monotonic()
    connection.request("GET", "/")
    assert connection.getresponse().read() == _BODY
    return time.monotonic() - began


def test_a_request_takes_a_round_trip_and_the_first_one_of_a_connection_two(server: int) -> None:
    with relay(server, 0.1) as (port, process):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        first, second = fetch(connection), min(fetch(connection) for _ in range(5))
        ask(process, rtt=0.0)
        without = min(fetch(connection) for _ in range(5))
        connection.close()
    assert first >= 0.199
    assert 0.099 <= second < first
    assert without < second


def test_requests_connections_and_bytes_are_counted(server: int) -> None:
    with relay(server, 0.0) as (port, process):
        for requests in (1, 3):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for _ in range(requests):
                fetch(connection)
            connection.close()
        counts = ask(process)
    assert (counts["connections"], counts["requests"]) == (2, 4)
    assert counts["down"] > 4 * len(_BODY)
    assert 0 < counts["up"] < 4000


def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    with relay(1, 0.0) as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            fetch(connection)
        connection.close()

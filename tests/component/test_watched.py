"""A client whose requests can be looked at: refusals are answers, everything else is the client's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobfs.api import fixed_key
from jobfs.api.bodies import json_body
from jobfs.api.watched import Watched
from jobfs.emulator import Server
from jobfs.errors import UnauthorizedError, UnavailableError


@pytest.fixture
def watched(server: Server) -> Iterator[Watched]:
    watched = Watched(server.url, server.job, fixed_key(server.key), timeout=2.0)
    yield watched
    watched.close()


def test_a_refusal_is_an_answer_with_status_and_body(server: Server, watched: Watched) -> None:
    server.store.seed({"a": "x"})
    item = server.store.item("a")
    answer = watched.send("POST", f"items/{item.id}", json_body({}))
    assert (answer.status, answer.ok, b"At least one field" in answer.body) == (400, False, True)
    answer = watched.send("GET", f"items/{'0' * 24}")
    assert answer.status == 404
    answer = watched.send("GET", f"items/{item.id}/download", headers=[("Range", "bytes=0-0")])
    assert (answer.status, answer.body, answer.ok) == (206, b"x", True)
    assert watched.client.get(item.id).path == "a"
    methods = [(exchange.method, exchange.status) for exchange in watched.exchanges]
    assert methods == [("POST", 400), ("GET", 404), ("GET", 206), ("GET", 200)]
    assert watched.exchanges[0].sent == b"{}"
    assert watched.exchanges[3].body.startswith(b'{"data"')
    assert server.key not in repr(watched.exchanges)


def test_what_speaks_of_the_key_or_of_no_answer_is_an_error(server: Server, watched: Watched) -> None:
    server.faults.next("error", status=403)
    with pytest.raises(UnauthorizedError):
        watched.send("GET", "")
    server.faults.next("hang", times=2)
    with pytest.raises(UnavailableError):
        watched.send("GET", "")
    assert watched.exchanges[-1].status is None
    assert watched.exchanges[-1].failed == "ReadTimeout"
    with pytest.raises(UnavailableError):
        watched.send("DELETE", f"items/{'0' * 24}")


def test_redirects_are_seen_each_time(server: Server, watched: Watched) -> None:
    server.set(trailing_slash="bare")
    for _ in range(2):
        watched.forget()
        assert watched.send("GET", "items/?take=1&skip=0").ok
        assert [exchange.status for exchange in watched.exchanges] == [307, 200]


def test_of_many_requests_only_the_first_are_kept(server: Server, watched: Watched) -> None:
    for _ in range(45):
        watched.send("GET", "items/?take=1&skip=0")
    assert len(watched.exchanges) == 40
    watched.forget()
    assert watched.exchanges == []

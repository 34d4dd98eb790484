"""What passes a client is kept, answers and failures alike."""

from __future__ import annotations

import pytest

from jobfs.api.client import Client
from jobfs.api.key import fixed_key
from jobfs.api.transport import pool
from jobfs.api.watched import Watched
from jobfs.emulator import Server
from jobfs.errors import NotFoundError, UnavailableError


def test_requests_are_kept_with_what_they_were_answered(server: Server) -> None:
    server.store.seed({"a": "x"})
    watched = Watched(pool(server.url, 1.0, 2))
    with Client(server.url, server.job, fixed_key(server.key), timeout=1.0, transport=watched) as client:
        client.get(server.store.item("a").id)
        with pytest.raises(NotFoundError):
            client.get("0" * 24)
        for _ in range(45):
            client.list_page(1, 0)
        kept = [(exchange.method, exchange.status) for exchange in watched.exchanges]
        assert kept[:3] == [("GET", 200), ("GET", 404), ("GET", 200)]
        assert watched.exchanges[0].body.startswith(b'{"data"')
        assert server.key not in repr(watched.exchanges)
        assert len(kept) == 40
        watched.exchanges = []
        server.faults.next("hang", times=2)
        with pytest.raises(UnavailableError):
            client.delete("0" * 24)
        assert [(exchange.status, exchange.failed) for exchange in watched.exchanges] == [
            (None, "ReadTimeout")
        ]

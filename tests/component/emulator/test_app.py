"""What surrounds every operation: URL, key, ids, redirects, the Date header, the line's latency and width."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from tests.support.waiting import eventually

from jobfs.emulator import Server

from .conftest import Wire

UNKNOWN = "0" * 24
JOBS = "/api/studio/v1/expert_jobs"
ONE_ITEM = (("GET", ""), ("GET", "/download"), ("DELETE", ""))


@pytest.mark.parametrize("everywhere", [False, True])
def test_an_unknown_job_gets_the_documented_answer_or_404(
    wire: Wire, server: Server, everywhere: bool
) -> None:
    def elsewhere(method: str, rest: str, **more: Any) -> tuple[int, Any]:
        answer = wire.request(method, f"{server.url}{JOBS}/{UNKNOWN}/workspace_instance{rest}", **more)
        return answer.status_code, answer.json().get("data", answer.json().get("reason"))

    server.set(implicit_directories="allowed", unknown_job=404 if everywhere else "documented")
    no_job = (404, "Expert job not found")
    assert elsewhere("GET", "/") == no_job
    for rest in ("/items/", "/items/find?path=x"):
        assert elsewhere("GET", rest) == (no_job if everywhere else (200, {"workspaceItems": []}))
    for method, rest in ONE_ITEM:
        missing = (404, "Workspace item not found")
        assert elsewhere(method, f"/items/{UNKNOWN}{rest}") == (no_job if everywhere else missing)
    made = elsewhere("POST", "/items/", json={"path": "f", "content": ""})
    assert made == (no_job if everywhere else (400, "Directory not found"))


def test_jobs_do_not_see_each_other(wire: Wire, server: Server) -> None:
    other = "b" * 24
    server.job_side(other).clear()
    item = server.job_side(other).seed({"theirs": "x"})[0]
    wire.made("ours")
    assert [one["path"] for one in wire.listed()] == ["ours"]
    assert wire.get(f"/items/{item.id}").status_code == 404
    answer = wire.get(f"{server.url}{JOBS}/{other}/workspace_instance/items/")
    assert [one["path"] for one in answer.json()["data"]["workspaceItems"]] == ["theirs"]


def test_answers_carry_the_time_of_the_servers_clock(wire: Wire, server: Server) -> None:
    now = time.time()
    server.set(clock_skew=3600)
    assert parsedate_to_datetime(wire.get("/").headers["date"]).timestamp() >= int(now + 3600)
    assert server.store.write("f", "").updated_us >= (now + 3600) * 1_000_000


def test_connections_take_turns_on_a_line_of_limited_bandwidth(wire: Wire, server: Server) -> None:
    server.set(bandwidth=2_000_000)
    started = time.monotonic()
    item = wire.made("f", bytes(1_000_000))
    assert time.monotonic() - started >= 0.45
    with ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        downloads = [pool.submit(wire.download, item["id"]) for _ in range(2)]
        eventually(lambda: server.log.count("download") == 2, "both are on their way")
        assert pool.submit(wire.listed).result()
        assert not any(download.done() for download in downloads)
        assert all(len(download.result().content) == 1_000_000 for download in downloads)
        assert time.monotonic() - started >= 0.87

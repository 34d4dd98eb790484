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
UNAUTHORIZED = {"code": 401, "error": "Unauthorized", "reason": "Failed to authenticate"}


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic local-test-key"])
def test_a_wrong_or_missing_key_is_401(wire: Wire, header: str | None) -> None:
    headers = {"authorization": header or ""}
    for path in ("/", "/items/", "/items/find?path=x", f"/items/{UNKNOWN}", "/items/bad", "/items/?take=0"):
        answer = wire.get(path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    assert wire.post("/items/", headers=headers, json={}).json() == UNAUTHORIZED
    assert wire.delete(f"/items/{UNKNOWN}", headers=headers).json() == UNAUTHORIZED


@pytest.mark.parametrize("bad", ["A" * 24, "a" * 24 + "%0A", "a" * 25, "a" * 20 + "%2Fbcd", "%66ind"])
def test_a_malformed_id_is_422_as_it_stands_in_the_url_before_it_is_decoded(wire: Wire, bad: str) -> None:
    for answer in (
        wire.get(f"/items/{bad}"),
        wire.get(f"/items/{bad}/download"),
        wire.delete(f"/items/{bad}"),
    ):
        assert (answer.status_code, answer.json()["error"]) == (422, "Validation Failed")
        assert answer.json()["reason"][0]["path"] == ["params", "workspaceItemId"]
    answer = wire.http.get(f"/api/studio/v1/expert_jobs/{bad}/workspace_instance/items/")
    assert (answer.status_code, answer.json()["reason"][0]["path"]) == (422, ["params", "expertJobId"])


def elsewhere(wire: Wire, method: str, rest: str, **more: Any) -> tuple[int, Any]:
    """The answer for a job that does not exist: its data, or the reason of its error."""
    url = f"/api/studio/v1/expert_jobs/{UNKNOWN}/workspace_instance{rest}"
    answer = wire.http.request(method, url, **more)
    return answer.status_code, answer.json().get("data", answer.json().get("reason"))


def test_an_unknown_job_gets_what_the_reference_documents(wire: Wire, server: Server) -> None:
    server.set(implicit_directories="allowed")
    missing = (404, "Workspace item not found")
    assert elsewhere(wire, "GET", "/") == (404, "Expert job not found")
    assert elsewhere(wire, "GET", "/items/") == (200, {"workspaceItems": []})
    assert elsewhere(wire, "GET", "/items/find?path=x") == (200, {"workspaceItems": []})
    assert elsewhere(wire, "POST", "/items/", json={"path": "f", "content": ""}) == (
        400,
        "Directory not found",
    )
    for method, rest in (("GET", ""), ("GET", "/download"), ("DELETE", "")):
        assert elsewhere(wire, method, f"/items/{UNKNOWN}{rest}") == missing
    assert elsewhere(wire, "POST", f"/items/{UNKNOWN}", json={"path": "f"}) == missing
    assert elsewhere(wire, "GET", "/items/?take=0")[0] == 422


def test_an_unknown_job_can_be_404_everywhere(wire: Wire, server: Server) -> None:
    server.set(unknown_job=404)
    for rest in ("/", "/items/", "/items/find?path=x", f"/items/{UNKNOWN}", f"/items/{UNKNOWN}/download"):
        assert elsewhere(wire, "GET", rest) == (404, "Expert job not found")


def test_jobs_do_not_see_each_other(wire: Wire, server: Server) -> None:
    other = "b" * 24
    server.job_side(other).clear()
    item = server.job_side(other).seed({"theirs": "x"})[0]
    wire.made("ours")
    assert [one["path"] for one in wire.listed()] == ["ours"]
    assert wire.get(f"/items/{item.id}").status_code == 404
    answer = wire.http.get(f"/api/studio/v1/expert_jobs/{other}/workspace_instance/items/")
    assert [one["path"] for one in answer.json()["data"]["workspaceItems"]] == ["theirs"]


@pytest.mark.parametrize(("mode", "redirected"), [("both", []), ("slash", ["/items"]), ("bare", ["/items/"])])
def test_a_collection_url_with_or_without_a_slash_may_redirect_to_the_other_form(
    wire: Wire, server: Server, mode: str, redirected: list[str]
) -> None:
    server.set(trailing_slash=mode)
    for path in ("/items", "/items/"):
        answer = wire.get(path, params={"take": 5})
        assert answer.status_code == (307 if path in redirected else 200)
        if path in redirected:
            assert answer.headers["location"].startswith(server.url + wire.base + "/items")
            assert answer.headers["location"].endswith("?take=5")
            assert wire.get(path, follow_redirects=True).status_code == 200
    assert wire.get(f"/items/{wire.server.store.write('f', '').id}").status_code == 200


def test_the_clock_of_the_server_is_in_its_answers(wire: Wire, server: Server) -> None:
    now = time.time()
    server.set(clock_skew=3600)
    assert parsedate_to_datetime(wire.get("/").headers["date"]).timestamp() >= int(now + 3600)
    assert server.store.write("f", "").updated_us >= (now + 3600) * 1_000_000


def test_bandwidth_caps_both_ways(wire: Wire, server: Server) -> None:
    server.set(bandwidth=1_000_000)
    started = time.monotonic()
    item = wire.made("f", bytes(100_000))
    middle = time.monotonic()
    wire.download(item["id"])
    assert middle - started >= 0.09
    assert time.monotonic() - middle >= 0.09


def test_the_line_is_shared_by_all_connections_and_they_take_turns(wire: Wire, server: Server) -> None:
    item = server.store.write("big", bytes(2_000_000))
    server.set(bandwidth=1_000_000)
    with ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        downloads = [pool.submit(wire.download, item.id) for _ in range(2)]
        eventually(lambda: server.log.count("download") == 2, "both are on their way")
        assert pool.submit(wire.listed).result()
        assert not any(download.done() for download in downloads)
        assert all(len(download.result().content) == 2_000_000 for download in downloads)
        assert time.monotonic() - started >= 3.75

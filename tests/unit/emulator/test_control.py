from __future__ import annotations

import hashlib
from typing import Any

import pytest

from jobfs.emulator import Server

from .conftest import Wire


def control(wire: Wire, method: str, path: str, **more: Any) -> Any:
    answer = wire.http.request(method, "/_emulator/" + path, headers={"authorization": ""}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_switches_are_seen_and_changed_while_it_runs(wire: Wire, server: Server) -> None:
    assert control(wire, "GET", "behaviour")["find"] == "exact"
    assert control(wire, "POST", "behaviour", json={"find": "prefix"})["find"] == "prefix"
    assert server.behaviour.find == "prefix"


def test_faults_are_added_seen_and_cleared(wire: Wire, server: Server) -> None:
    control(wire, "POST", "faults", json={"kind": "error", "on": "find", "times": 1})
    control(wire, "POST", "faults", json=[{"kind": "hang", "on": "get"}, {"kind": "drop", "on": "get"}])
    assert [rule["kind"] for rule in control(wire, "GET", "faults")] == ["error", "hang", "drop"]
    assert wire.get("/items/find?path=x").status_code == 500
    assert control(wire, "DELETE", "faults") == []
    assert server.faults.rules() == []


def test_the_log_is_read_and_reset_without_entries_of_its_own(wire: Wire) -> None:
    wire.made("f")
    wire.listed()
    assert [entry["operation"] for entry in control(wire, "GET", "log")] == ["create", "list"]
    assert [entry["operation"] for entry in control(wire, "GET", "log?changing=1")] == ["create"]
    assert [entry["target"] for entry in control(wire, "GET", "log?operation=create")] == ["f"]
    assert control(wire, "DELETE", "log") == []
    assert control(wire, "GET", "log") == []


def test_the_jobs_side_is_reached_from_another_process(wire: Wire, server: Server) -> None:
    files = f"jobs/{server.job}/files/"
    first = control(wire, "PUT", files + "d/%C3%BC.txt", content=b"one")
    again = control(wire, "POST", files + "d/%C3%BC.txt", content=b" two")
    assert (first["id"], again["path"]) == (again["id"], "d/ü.txt")
    assert wire.http.get("/_emulator/" + files + "d/ü.txt").content == b"one two"
    items = control(wire, "GET", f"jobs/{server.job}/items")
    assert [item.get("sha256") for item in items] == [None, hashlib.sha256(b"one two").hexdigest()]
    control(wire, "DELETE", files + "d")
    assert server.store.items() == []
    assert control(wire, "POST", f"jobs/{server.job}", json={"status": "completed"})["status"] == "completed"
    assert control(wire, "GET", "jobs")[0]["status"] == "completed"
    server.store.set_job(status="processing")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "nothing", None, 404),
        ("GET", "jobs/none", None, 404),
        ("GET", "jobs/test12345678901234567890/files/none", None, 404),
        ("PUT", "log", None, 405),
        ("POST", "behaviour", b'{"find": "regex"}', 422),
        ("POST", "behaviour", b"[", 422),
        ("POST", "behaviour", b"[]", 422),
        ("POST", "faults", b'{"kind": "explode"}', 422),
        ("POST", "faults", b"[3]", 422),
        ("POST", "jobs/test12345678901234567890", b'{"no": 1}', 422),
    ],
)
def test_what_is_wrong_is_one_sentence(wire: Wire, method: str, path: str, body: Any, status: int) -> None:
    answer = wire.http.request(method, "/_emulator/" + path, content=body)
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]


def test_a_page_in_a_browser_is_refused(wire: Wire) -> None:
    answer = wire.http.delete("/_emulator/log", headers={"origin": "http://example.org"})
    assert answer.status_code == 403

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.waiting import eventually

from jobfs.emulator import EmulatorConfig, Server, running

from .conftest import Wire


def control(wire: Wire, method: str, path: str, **more: Any) -> Any:
    answer = wire.http.request(method, "/_emulator/" + path, headers={"authorization": ""}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_faults_are_set_in_place_of_others(wire: Wire) -> None:
    control(wire, "POST", "faults", json={"kind": "hang"})
    rules = control(wire, "PUT", "faults", json=[{"kind": "weather", "rate": 0.1}])
    assert [(rule["kind"], rule["rate"]) for rule in rules] == [("weather", 0.1)]
    answer = wire.http.put("/_emulator/faults", content=b'[{"kind": "explode"}]')
    assert answer.status_code == 422
    assert control(wire, "GET", "faults") == rules


def test_the_port_that_carries_the_request_is_closed_for_a_while(wire: Wire, server: Server) -> None:
    url = server.url
    assert control(wire, "POST", "listener", json={"open": False, "seconds": 2.0}) == {"open": True}
    eventually(lambda: not server.is_open, "it is closed")
    with pytest.raises(httpx.ConnectError):
        wire.listed()
    eventually(lambda: server.is_open, "it is open")
    assert (wire.listed(), server.url) == ([], url)
    answer = wire.http.post("/_emulator/listener", json={"open": False})
    assert (answer.status_code, "--control-port" in answer.json()["error"]) == (422, True)


def test_a_port_of_its_own_closes_and_opens_the_other(tmp_path: Path) -> None:
    with running(EmulatorConfig(control_port=0), tmp_path) as server:
        wire = Wire(server)
        with httpx.Client(base_url=server.control_url + "/_emulator/", trust_env=False) as other:
            assert other.get("listener").json() == {"open": True}
            assert other.post("listener", json={"open": False}).json() == {"open": False}
            with pytest.raises(httpx.ConnectError):
                wire.listed()
            assert other.post("faults", json={"kind": "unavailable", "times": 1}).status_code == 200
            assert other.post("listener", json={"open": True}).json() == {"open": True}
            assert wire.get("/items/").status_code == 503
            assert wire.listed() == []
            other.post("listener", json={"open": False, "seconds": 0.1})
            eventually(lambda: server.is_open, "it is open again by itself")
            other.post("listener", json={"open": False, "seconds": 3600})
        wire.http.close()


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
        ("POST", "behaviour", b'{"no_such": 1}', 422),
        ("POST", "behaviour", b"[", 422),
        ("POST", "faults", b"[3]", 422),
        ("POST", "jobs/test12345678901234567890", b'{"no": 1}', 422),
        ("POST", "listener", b'{"open": false, "seconds": -1}', 422),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(
    wire: Wire, method: str, path: str, body: Any, status: int
) -> None:
    answer = wire.http.request(method, "/_emulator/" + path, content=body)
    assert answer.status_code == status
    assert "\n" not in answer.json()["error"]


def test_a_page_in_a_browser_is_refused(wire: Wire) -> None:
    answer = wire.http.delete("/_emulator/log", headers={"origin": "http://example.org"})
    assert answer.status_code == 403

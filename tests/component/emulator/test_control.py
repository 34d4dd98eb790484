"""The control routes, the request log, the job's side, and the server's own life."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.waiting import eventually

from jobfs.emulator import EmulatorConfig, Rule, Server, running
from jobfs.emulator.play import play_step
from jobfs.errors import UsageError

from .conftest import Wire


def control(wire: Wire, method: str, path: str, **more: Any) -> Any:
    answer = wire.request(
        method, wire.server.url + "/_emulator/" + path, headers={"authorization": ""}, **more
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_setting_faults_replaces_the_earlier_ones(wire: Wire) -> None:
    control(wire, "POST", "faults", json={"kind": "hang"})
    rules = control(wire, "PUT", "faults", json=[{"kind": "weather", "rate": 0.1}])
    assert [(rule["kind"], rule["rate"]) for rule in rules] == [("weather", 0.1)]
    wrong = wire.put(wire.server.url + "/_emulator/faults", content=b'[{"kind": "explode"}]')
    assert (wrong.status_code, control(wire, "GET", "faults")) == (422, rules)


def test_the_port_that_received_the_request_closes_for_a_while(wire: Wire, server: Server) -> None:
    url = server.url
    assert control(wire, "POST", "listener", json={"open": False, "seconds": 2.0}) == {"open": True}
    eventually(lambda: not server.is_open, "it is closed")
    with pytest.raises(httpx.ConnectError):
        wire.listed()
    eventually(lambda: server.is_open, "it is open")
    assert (wire.listed(), server.url) == ([], url)
    answer = wire.post(wire.server.url + "/_emulator/listener", json={"open": False})
    assert (answer.status_code, "--control-port" in answer.json()["error"]) == (422, True)


def test_a_separate_control_port_closes_and_opens_the_main_port(tmp_path: Path) -> None:
    with running(EmulatorConfig(control_port=0), tmp_path) as server, Wire(server) as wire:
        other = server.control_url + "/_emulator/listener"
        assert httpx.post(other, json={"open": False}).json() == {"open": False}
        with pytest.raises(httpx.ConnectError):
            wire.listed()
        assert httpx.post(other, json={"open": True}).json() == {"open": True}
        assert wire.listed() == []
        httpx.post(other, json={"open": False, "seconds": 3600})


def test_an_answer_is_in_the_log_once_it_was_received(wire: Wire) -> None:
    item = wire.made("f", b"x")
    wire.update(item["id"], path="g")
    wire.found("g")
    wire.delete(f"/items/{item['id']}")
    wire.get("/nothing")
    log = wire.server.log
    assert [(e.method, e.operation, e.status, e.item, e.target) for e in log.entries()] == [
        ("POST", "create", 200, item["id"], "f"),
        ("POST", "update", 200, item["id"], "g"),
        ("GET", "find", 200, "", "g"),
        ("DELETE", "delete", 200, item["id"], "g"),
        ("GET", "", 404, "", ""),
    ]
    assert (log.entries("find")[0].query, log.count(), log.count("update")) == ("path=g", 5, 1)
    changing = [entry["operation"] for entry in control(wire, "GET", "log?changing=1")]
    assert changing == [entry.operation for entry in log.changes()] == ["create", "update", "delete"]
    assert [entry["target"] for entry in control(wire, "GET", "log?operation=create")] == ["f"]
    assert control(wire, "DELETE", "log") == control(wire, "GET", "log") == []


def test_another_process_can_act_as_the_job(wire: Wire, server: Server) -> None:
    files = f"jobs/{server.job}/files/"
    first = control(wire, "PUT", files + "d/%C3%BC.txt", content=b"one")
    again = control(wire, "POST", files + "d/%C3%BC.txt", content=b" two")
    assert (first["id"], again["path"]) == (again["id"], "d/ü.txt")
    assert wire.get(wire.server.url + "/_emulator/" + files + "d/ü.txt").content == b"one two"
    items = control(wire, "GET", f"jobs/{server.job}/items")
    assert [item.get("sha256") for item in items] == [None, hashlib.sha256(b"one two").hexdigest()]
    moved = control(wire, "PATCH", files + "d/%C3%BC.txt", json={"path": "d/moved"})
    assert (moved["id"], moved["path"]) == (first["id"], "d/moved")
    control(wire, "DELETE", files + "d")
    assert server.store.items() == []
    assert control(wire, "POST", f"jobs/{server.job}", json={"status": "completed"})["status"] == "completed"
    server.store.set_job(status="processing")


def test_all_items_are_of_one_moment(wire: Wire, server: Server) -> None:
    server.store.seed({f"{number}": bytes(1 << 20) for number in range(10)})
    is_done = threading.Event()

    def replace_a_file() -> None:
        while not is_done.is_set():
            server.store.seed({"z": b""})
            server.store.delete("z")

    job = threading.Thread(target=replace_a_file)
    job.start()
    try:
        found = [len(control(wire, "GET", f"jobs/{server.job}/items")) for _ in range(20)]
    finally:
        is_done.set()
        job.join()
    assert {*found} <= {10, 11}


def test_the_job_replaces_a_file_only_if_its_content_is_unchanged(wire: Wire, server: Server) -> None:
    files = f"{wire.server.url}/_emulator/jobs/{server.job}/files/"
    server.store.seed({"file": b"one", "draft": b"two"})
    requests: list[tuple[str, str, Any]] = [
        ("PUT", "file", {"content": b"new"}), ("POST", "file", {"content": b"new"}),
        ("PATCH", "draft", {"json": {"path": "file"}}), ("DELETE", "file", {}),
    ]  # fmt: skip
    for method, path, body in requests:
        refused = wire.request(method, files + path, headers=_if_match(b"other"), **body)
        assert (refused.status_code, server.store.tree()) == (412, {"file": b"one", "draft": b"two"}), method
    missing = wire.request("PUT", files + "none", headers=_if_match(b"one"), content=b"new")
    assert (missing.status_code, server.store.exists("none")) == (404, False)
    taken = wire.request("PATCH", files + "draft", headers=_if_match(b"one"), json={"path": "file"})
    assert (taken.status_code, server.store.tree()) == (200, {"file": b"two"})


def _if_match(content: bytes) -> dict[str, str]:
    return {"if-match": f'"{hashlib.sha256(content).hexdigest()}"'}


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("GET", "nothing", None, 404), ("GET", "jobs/none", None, 404),
    ("GET", "jobs/test12345678901234567890/files/none", None, 404),
    ("PUT", "log", None, 405), ("POST", "behaviour", b'{"find": "regex"}', 422),
    ("POST", "behaviour", b"[", 422), ("POST", "faults", b"[3]", 422),
    ("POST", "listener", b'{"open": false, "seconds": -1}', 422),
])  # fmt: skip
def test_a_wrong_request_gets_an_error_of_one_sentence(
    wire: Wire, method: str, path: str, body: Any, status: int
) -> None:
    answer = wire.request(method, wire.server.url + "/_emulator/" + path, content=body)
    assert (answer.status_code, "\n" in answer.json()["error"]) == (status, False)
    of_a_page = {"origin": "http://example.org"}
    assert wire.request(method, wire.server.url + "/_emulator/log", headers=of_a_page).status_code == 403


def test_a_simulated_job_appends_rewrites_and_replaces(server: Server) -> None:
    names = ("logs/run.log", "reports/progress.md", "results/latest.txt")
    ids = []
    server.store.set_job(current_step=0, status="queued")
    for step in range(1, 15):
        play_step(server.store, step, last=step == 14)
        ids += [[server.store.item_at(name).id for name in names]] if step in (7, 14) else []
    assert [old == new for old, new in zip(*ids, strict=True)] == [True, True, False]
    assert [path for path in server.store.tree() if "step-" in path] == [
        f"results/step-{step:05d}.json" for step in (4, 8, 12)
    ]
    assert (server.store.job().status, server.store.job().current_step) == ("completed", 14)


def test_a_server_restarts_with_its_state_and_ends_hung_requests(tmp_path: Path) -> None:
    with running(directory=tmp_path) as server, Wire(server) as wire:
        wire.made("f", b"x")
        url = server.url
        with server.down(), pytest.raises(httpx.ConnectError):
            wire.listed()
        assert (server.url, [item["path"] for item in wire.listed()]) == (url, ["f"])
    config = EmulatorConfig(faults=(Rule("hang", "list"), Rule("late", "create", delay=3600)))
    with running(config, tmp_path) as server, Wire(server) as wire:
        assert server.store.tree() == {"f": b"x"}
        wire.timeout = httpx.Timeout(0.1)
        for request in (wire.listed, lambda: wire.create("f")):
            with pytest.raises(httpx.TransportError):
                request()


def test_a_connection_accepted_during_shutdown_is_closed(server: Server) -> None:
    """Else Python warns of it, whatever test is under way then."""
    listener, gate = server._listener._server, threading.Barrier(2)
    assert listener
    listener._loop.call_soon_threadsafe(lambda: [gate.wait(), gate.wait()])
    gate.wait()
    with socket.create_connection(("127.0.0.1", server._listener.port), 10) as client:
        listener.request_stop()
        gate.wait()
        with server.down(), contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    gc.collect()


def test_a_port_in_use_is_one_sentence_and_releases_the_directory(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = EmulatorConfig(port=taken.getsockname()[1])
        for _ in range(2):
            with pytest.raises(UsageError, match="choose another"), running(config, tmp_path):
                pass

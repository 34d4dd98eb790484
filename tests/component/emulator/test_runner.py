from __future__ import annotations

import socket
from pathlib import Path

import httpx
import pytest

from jobfs.emulator import Behaviour, EmulatorConfig, Rule, running
from jobfs.errors import UsageError

from .conftest import Wire


def test_a_server_can_go_down_and_come_back_with_its_state(tmp_path: Path) -> None:
    with running(directory=tmp_path) as server:
        wire = Wire(server)
        wire.made("f", b"x")
        url = server.url
        with server.down(), pytest.raises(httpx.ConnectError):
            wire.listed()
        assert (server.url, [item["path"] for item in wire.listed()]) == (url, ["f"])
        wire.http.close()
    with running(directory=tmp_path) as server:
        assert server.store.tree() == {"f": b"x"}


def test_a_server_stops_though_a_request_hangs_and_another_is_late() -> None:
    config = EmulatorConfig(faults=(Rule("hang", "list"), Rule("late", "create", delay=3600)))
    with running(config) as server:
        wire = Wire(server)
        for request in (wire.listed, lambda: wire.create("f")):
            wire.http.timeout = httpx.Timeout(0.1)
            with pytest.raises(httpx.TransportError):
                request()
        wire.http.close()


def test_a_reset_brings_back_the_first_behaviour() -> None:
    with running(EmulatorConfig(behaviour=Behaviour(find="prefix"))) as server:
        server.set(find="exact")
        server.faults.next("drop")
        server.store.write("f", "")
        server.reset()
        assert (server.behaviour.find, server.faults.rules(), server.store.items()) == ("prefix", [], [])


def test_a_port_in_use_is_one_sentence_and_the_directory_is_free_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = EmulatorConfig(port=taken.getsockname()[1])
        for _ in range(2):
            with pytest.raises(UsageError, match="choose another"), running(config, tmp_path):
                pass

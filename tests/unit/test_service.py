"""What a service manager hears, and that nothing breaks where none listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobfs import service
from jobfs.service import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """Its socket, and what NOTIFY_SOCKET says."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@jobfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0"))
        ear.settimeout(20)
        yield ear, name


def test_the_service_manager_is_told_each_state(manager: tuple[socket.socket, str]) -> None:
    """sd_notify(3): READY=1, MAINPID, STATUS, STOPPING=1, one datagram each."""
    ear, name = manager
    told = ServiceManager(name)
    assert told.listens
    told.tell("READY=1", "STATUS=everything is sent")
    told.tell("STOPPING=1")
    assert ear.recv(1000) == b"READY=1\nSTATUS=everything is sent"
    assert ear.recv(1000) == b"STOPPING=1"


def test_no_state_is_told_without_a_service_manager() -> None:
    told = ServiceManager(None)
    assert not told.listens
    told.tell("READY=1")


def test_a_service_manager_that_no_longer_listens_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_PATIENCE", 0.01)
    ServiceManager(str(tmp_path / "gone")).tell("READY=1")
    ServiceManager("x" * 200).tell("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        told = ServiceManager(str(tmp_path / "deaf"))
        for number in range(20):
            told.tell(str(number))

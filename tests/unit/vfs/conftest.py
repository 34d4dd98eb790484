"""Fixtures: a local server, and a Vfs on it that sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.workspaces import Workspace, workspace

from jobfs.emulator import Server, running


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(directory=tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.reset()
    return shared_server


@pytest.fixture
def work(server: Server, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(server, tmp_path / "home", write_back_delay=60, uid=1234, gid=4321) as work:
        yield work

"""A local server in this process, for modules that ask one over HTTP; each test finds it as it was made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobfs.emulator import EmulatorConfig, Server, running


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(started: Server) -> Server:
    started.reset()
    return started

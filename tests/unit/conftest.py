"""A local server in this process, for modules that ask one over HTTP, which each test finds as it was made; another disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory in memory, on another file system than `tmp_path`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)

"""Fixtures of the tests on a real mount: a local server in this process, a mount in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.forks import ForkServer, forking
from tests.support.mounts import MountedJob

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    directory = tmp_path / "server"
    directory.mkdir()
    with running(EmulatorConfig(behaviour=Behaviour()), directory) as server:
        yield server


@pytest.fixture
def mount(server: Server, tmp_path: Path, forks: ForkServer) -> Iterator[Callable[..., MountedJob]]:
    """Mounts the server's job; called again, a second mount with a home of its own."""
    with ExitStack() as stack:
        homes = iter(tmp_path / f"home{number}" for number in range(100))

        def mount(**options: Any) -> MountedJob:
            return stack.enter_context(forking(forks, server, next(homes), **options))

        yield mount


@pytest.fixture
def mounted(mount: Callable[..., MountedJob]) -> MountedJob:
    return mount()

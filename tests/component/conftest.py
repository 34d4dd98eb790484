"""Fixtures: a local server, and a Vfs on it, in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.workspaces import Workspace, workspace

from jobfs.emulator import EmulatorConfig, Server, running
from jobfs.writeback.localbytes import LocalFile


@pytest.fixture(autouse=True, scope="session")
def handles_that_nobody_gave_back() -> Iterator[None]:
    """Of the many mounts that are thrown away here: a process that really ends gives back its local bytes."""

    def give_back(local: LocalFile) -> None:
        if local._users > 0:
            with suppress(OSError):
                os.close(local._handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFile, "__del__", give_back, raising=False)
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One for each test: what a fault carries out late must not reach the next one."""
    with running(EmulatorConfig(), tmp_path / "server") as server:
        yield server


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Workspace]]:
    """Starts a workspace; called again, a second one with a home of its own."""
    with ExitStack() as stack:
        homes = iter(tmp_path / f"home{number}" for number in range(100))

        def start(**options: Any) -> Workspace:
            return stack.enter_context(workspace(server, next(homes), **options))

        yield start


@pytest.fixture
def work(start: Callable[..., Workspace]) -> Workspace:
    return start()

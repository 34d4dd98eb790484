"""Fixtures: a local server, and a Vfs on it, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.support.boundaries import Boundaries, Mortal, hurrying
from tests.support.machine import MEMORY, has_room_in_memory
from tests.support.overlaps import Overlaps, counted_overlaps
from tests.support.workspaces import Workspace, workspace

from jobfs.api.deadline import limit_time
from jobfs.emulator import EmulatorConfig, Server, running
from jobfs.save.writeback import INTERVALS


@pytest.fixture
def scratch_delay() -> float:
    """Seconds until the item of a file that was renamed to a scratch name leaves the server."""
    return 0.2


@pytest.fixture
def sync_interval() -> float:
    """Seconds between disk syncs."""
    return INTERVALS.sync


@pytest.fixture(autouse=True)
def quick(scratch_delay: float, sync_interval: float) -> Iterator[None]:
    """A test's own calls are system calls; what is tested is the order of things, not how many seconds are between them."""
    with limit_time(), hurrying(scratch_delay, sync_interval):
        yield


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory, if that has room: nothing is synced here (`quick`), and thousands of mounts take a third longer on a disk."""
    if has_room_in_memory():
        with TemporaryDirectory(prefix="jobfs-tests.", dir=MEMORY) as place:
            yield Path(place)
    else:
        yield tmp_path


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


@pytest.fixture
def mortal(server: Server, tmp_path: Path) -> Iterator[Callable[..., Mortal]]:
    """Starts a mount that passes boundaries; called again, the next mount of that state. What still runs ends with the test."""
    started: list[Mortal] = []

    def start(boundaries: Boundaries | None = None, **options: Any) -> Mortal:
        started.append(Mortal(server, tmp_path / "home", boundaries or Boundaries(), **options))
        started[-1].start()
        return started[-1]

    yield start
    server.faults.clear()
    for work in started:
        work.end()


@pytest.fixture
def overlaps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Overlaps | None:
    """Overlaps wherever R13 allows it, and counts that; with False as parameter, nothing overlaps."""
    if not getattr(request, "param", True):
        return None
    return counted_overlaps(monkeypatch)

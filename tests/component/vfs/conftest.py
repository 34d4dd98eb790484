"""A Vfs on the local server that sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.workspaces import Workspace, workspace

from jobfs.emulator import Server


@pytest.fixture
def work(server: Server, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(server, tmp_path / "home", ttl=60, write_back_delay=60, uid=1234, gid=4321) as work:
        yield work

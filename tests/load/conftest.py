"""Fixtures of the load tests: workloads in forms that end in seconds, each on a server and a mount of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stress.load.stage import DESCRIPTORS, Workload, played
from tests.support.forks import ForkServer


@pytest.fixture(scope="session")
def limited_forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    forks = ForkServer(tmp_path_factory.mktemp("forks"), DESCRIPTORS)
    yield forks
    forks.close()


@pytest.fixture
def held(limited_forks: ForkServer, tmp_path: Path) -> Callable[..., None]:
    """Plays a workload with these arguments, and fails with all its bounds if one of them did not hold.

    It is broken off after `seconds`, which is what fails it then: no test of these hangs.
    """

    def held(play: Callable[..., None], *, seconds: float = 40, **arguments: Any) -> None:
        work = Workload(play.__name__, play, seconds, arguments)
        row = played(work, limited_forks, tmp_path / "stage")
        assert not row.broken, "\n".join(["", *map(str, row.broken), "", str(row)])

    return held

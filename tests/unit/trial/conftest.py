"""A local server in this process, and tries of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobfs.api import fixed_key
from jobfs.api.deadline import within
from jobfs.api.watched import Watched
from jobfs.emulator import Server
from jobfs.trial import Place, Row, Trial, clear, run

OWN = "0123456789ab"


@contextmanager
def trying(server: Server, scratch: Path, timeout: float = 5.0, key: str = "") -> Iterator[Trial]:
    watched = Watched(server.url, server.job, fixed_key(key or server.key), timeout=timeout)
    with within():
        yield Trial(watched, Place(watched.client, OWN), scratch)
    watched.close()


class Outcome(dict[str, Row]):
    """The rows of a whole try by name, and all facts in them."""

    @property
    def facts(self) -> dict[str, object]:
        return {name: value for row in self.values() for name, value in row.finding.facts.items()}


@pytest.fixture
def tried(server: Server, tmp_path: Path) -> Callable[..., Outcome]:
    """A whole try of the server, without a mount; everything is taken away afterwards."""

    def tried(**more: object) -> Outcome:
        with trying(server, tmp_path, **more) as trial:  # type: ignore[arg-type]
            rows = list(run(trial))
            cleared = clear(trial)
        return Outcome((row.name, row) for row in (*rows, *([cleared] if cleared else [])))

    return tried

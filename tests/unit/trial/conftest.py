"""A local server in this process, and tries of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobfs.api.client import Client
from jobfs.api.deadline import within
from jobfs.api.key import fixed_key
from jobfs.emulator import Server
from jobfs.trial import questions
from jobfs.trial.questions import Row, Trial, clear, run


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_TICK", 0.01)


@contextmanager
def trying(server: Server, scratch: Path, timeout: float = 5.0, key: str = "") -> Iterator[Trial]:
    with within(), Client(server.url, server.job, fixed_key(key or server.key), timeout=timeout) as client:
        yield Trial(client, scratch)


class Outcome(dict[str, Row]):
    """The rows of a whole try by name, and all facts in them."""

    @property
    def facts(self) -> dict[str, object]:
        return {name: value for row in self.values() for name, value in row.finding.facts.items()}

    def marked(self, mark: str) -> list[str]:
        return [name for name, row in self.items() if row.finding.verdict == mark]


@pytest.fixture
def tried(server: Server, tmp_path: Path) -> Callable[..., Outcome]:
    """A whole try of the server; everything is taken away afterwards."""

    def tried(**more: object) -> Outcome:
        with trying(server, tmp_path, **more) as trial:  # type: ignore[arg-type]
            rows = [*run(trial), clear(trial)]
        return Outcome((row.name, row) for row in rows)

    return tried

"""The exerciser of one file: random operations on a mount, each answer compared with a byte buffer's."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .operations import CLOSED, ON_THE_SERVER, Operation, digest, expected

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Failure:
    """The first operation whose answer was wrong: its place in the sequence, what it answered and what it should have."""

    index: int
    operation: Operation
    answer: str
    right: str

    def __str__(self) -> str:
        return f"operation {self.index}, {self.operation}: {self.answer} instead of {self.right}"


class Subject(Protocol):
    """What is exercised: a directory, and where its files end up."""

    @property
    def path(self) -> Path: ...

    def flush(self) -> None: ...

    def remount(self) -> None: ...


class Exerciser:
    """Runs sequences of operations, each on a new file of `subject`; `stored` says what its server has of a file."""

    def __init__(self, subject: Subject, stored: Callable[[str], bytes | None]) -> None:
        self._subject = subject
        self._stored = stored
        self._numbers = itertools.count(1)
        self._player = subprocess.Popen(
            [sys.executable, "-m", "tests.support.exercising.player"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )

    def stop(self) -> None:
        """End the process that carries operations out."""
        assert self._player.stdin is not None
        assert self._player.stdout is not None
        self._player.stdin.close()
        self._player.wait(30)
        self._player.stdout.close()

    def run(self, operations: Sequence[Operation]) -> Failure | None:
        """The first wrong answer, or None if all are right and the server has the file as it is at the end."""
        path = f"file{next(self._numbers)}"
        start = 0
        steps = list(expected([*operations, Operation("drain")]))
        while start < len(steps):
            end = next(n for n in range(start, len(steps)) if steps[n][0].kind in ON_THE_SERVER) + 1
            if failure := self._segment(path, start, steps[start:end]):
                self._tell([], path, close=True)
                return failure
            start = end
        self._subject.path.joinpath(path).unlink()
        return None

    def _segment(self, path: str, start: int, steps: list[tuple[Operation, str, bytes]]) -> Failure | None:
        """Operations up to one after which the server is compared."""
        last, _, content = steps[-1]
        told = [operation for operation, _, _ in steps if operation.kind not in CLOSED]
        answers, name = self._tell(told, path, close=last.kind in CLOSED)
        for index, ((operation, right, _), answer) in enumerate(zip(steps, answers, strict=False), start):
            if answer != right:
                return Failure(index, operation, answer, right)
        if len(answers) > len(told):
            return Failure(start + len(told), last, answers[-1], "closed")
        if last.kind == "remount":
            self._subject.remount()
        elif last.kind == "drain":
            self._subject.flush()
        found = self._stored(Path(name).name)
        on_server, right = digest(found) if found is not None else "nothing", digest(content)
        if on_server != right:
            return Failure(start + len(steps) - 1, last, f"{on_server} on the server", right)
        return None

    def _tell(self, operations: list[Operation], path: str, *, close: bool) -> tuple[list[str], str]:
        request = {
            "path": str(self._subject.path / path),
            "operations": [operation.as_json() for operation in operations],
            "close": close,
        }
        assert self._player.stdin is not None
        assert self._player.stdout is not None
        self._player.stdin.write(json.dumps(request) + "\n")
        self._player.stdin.flush()
        answer: dict[str, Any] = json.loads(self._player.stdout.readline())
        # Closing gives the file its first name again.
        return answer["answers"], path if close else answer["name"]


@contextmanager
def exercising(subject: Subject, stored: Callable[[str], bytes | None]) -> Iterator[Exerciser]:
    """An exerciser, ended afterwards."""
    exerciser = Exerciser(subject, stored)
    try:
        yield exerciser
    finally:
        exerciser.stop()

"""Where cases run: a directory of this machine's disk, and a mount, each with a process that makes the calls there."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conformance.cases import Case
from tests.conformance.differences import DIFFERENCES

_PROGRAM = Path(__file__).parent / "syscalls.py"
_ROOT = Path(__file__).parents[2]


class Place:
    """A directory, and the process that makes calls in it."""

    def __init__(self, directory: Path, process: subprocess.Popen[str]) -> None:
        self.directory = directory
        self._process = process
        self._numbers = itertools.count(1)

    def run(self, case: Case, *, settle: bool = False, make: bool = True, below: str = "") -> list[str]:
        """What each step of the case answers here, in a new directory (`make`), or in one that is there (`below`).

        `settle`: a new file is on the server before the next step, so that it is an item like any other.
        """
        request = {
            "base": str(self.directory / below),
            "make": f"{next(self._numbers):04d}" if make else "",
            "settle": settle,
            "steps": [{"user": step.user, "words": step.words} for step in case.steps],
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that makes the calls has ended with {self._process.wait()}"
        seen = list(json.loads(answer))
        wrong = [answer for answer in seen if answer.startswith("the step is wrong")]
        assert not wrong, f"{case.name}: {wrong}"
        return seen


@contextmanager
def place(directory: Path, *, read_only: bool = False) -> Iterator[Place]:
    """A place on this directory; `read_only`: the process sees it mounted read-only."""
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAM), *([str(directory)] if read_only else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        yield Place(directory, process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


@dataclass(frozen=True)
class Answers:
    """What one case answered in one place, beside its steps."""

    case: Case
    seen: tuple[str, ...]

    def as_expected(self) -> bool:
        """True if each step answered what the case says that a disk answers."""
        return all(
            not answer.startswith("E") if step.expected is None else step.expected in ("?", answer)
            for step, answer in zip(self.case.steps, self.seen, strict=True)
        )

    def __str__(self) -> str:
        lines = (
            f"  {step.line:<60}: {answer}" for step, answer in zip(self.case.steps, self.seen, strict=True)
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Both:
    """A disk and a mount. `make`: cases make a directory of their own; `settle`: see `Place.run`."""

    disk: Place
    mount: Place
    make: bool = True
    settle: tuple[bool, ...] = (False, True)

    def compare(self, case: Case) -> None:
        """AssertionError unless the mount answers each step as the disk does, or as differences.py says."""
        disk = Answers(case, tuple(self.disk.run(case, make=self.make)))
        assert disk.as_expected(), f"{case.name}: the disk answers\n{disk}"
        listed = DIFFERENCES.get(case.name)
        for settle in self.settle:
            mount = Answers(case, tuple(self.mount.run(case, settle=settle, make=self.make)))
            differing = tuple(
                (step.line, here, there)
                for step, here, there in zip(case.steps, disk.seen, mount.seen, strict=True)
                if here != there
            )
            expected = listed.answers if listed is not None else ()
            when = "once its files are on the server" if settle else "while its files are not sent yet"
            assert differing == expected, f"{case.name}, {when}: the mount answers\n{mount}\nthe disk\n{disk}"

"""Where cases run: a directory of this machine's disk, and a mount, each with a process that makes the calls there."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.cases import Case, Step
from tests.support.mounts import MountedJob, mounting

from jobfs.emulator import Behaviour, EmulatorConfig, running

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
class Both:
    """A disk and a mount. `make`: cases make a directory of their own."""

    disk: Place
    mount: Place
    make: bool = True

    def compare(self, case: Case) -> None:
        """AssertionError unless the disk answers each step as the case says, and the mount as the disk does or as it says."""
        disk = self.disk.run(case, make=self.make)
        right = [_fits(step, answer) for step, answer in zip(case.steps, disk, strict=True)]
        assert all(right), f"{case.name}: the disk answers\n{_shown(case, disk)}"
        wanted = [step.here or answer for step, answer in zip(case.steps, disk, strict=True)]
        for settle in (False, True):
            mount = self.mount.run(case, settle=settle, make=self.make)
            when = "once its files are on the server" if settle else "while its files are not sent yet"
            assert mount == wanted, (
                f"{case.name}, {when}: the mount answers\n{_shown(case, mount)}\nthe disk\n{_shown(case, disk)}"
            )


def _fits(step: Step, answer: str) -> bool:
    return step.expected in ("?", answer) if step.expected else not answer.startswith("E")


def _shown(case: Case, seen: list[str]) -> str:
    return "\n".join(f"  {step.line:<60}: {answer}" for step, answer in zip(case.steps, seen, strict=True))


@contextmanager
def beside(home: Path, behaviour: Behaviour, **options: Any) -> Iterator[tuple[MountedJob, Both]]:
    """A mount of such a server, and with a directory of the disk where cases run in both."""
    for name in ("server", "disk"):
        (home / name).mkdir(parents=True)
    if os.geteuid() == 0:
        options["allow_other"] = True
    with (
        running(EmulatorConfig(behaviour=behaviour), home / "server") as server,
        # What the kernel knows must not grow old within a case: a removed directory answers otherwise then.
        mounting(server, home / "home", ttl=60, **options) as mounted,
        place(home / "disk") as disk,
        place(mounted.path) as mount,
    ):
        yield mounted, Both(disk, mount)

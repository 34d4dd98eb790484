"""More files held open than a mount has descriptors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.stress.report import Check, at_least, at_most
from tests.support.waiting import eventually

from .bounds import DESCRIPTORS, Bounds
from .calls import RefusedError
from .rewriting import names, source, tree
from .stage import DESCRIPTORS as LIMIT
from .stage import Stage

#: Opens files until that fails or all are open, says how many and the errno, and holds them until its input ends.
_HOARDER = """
import os, sys
held = 0
code = 0
for number in range(int(sys.argv[3])):
    try:
        handle = os.open(sys.argv[2] % number, os.O_RDONLY if sys.argv[1] == "read" else os.O_WRONLY | os.O_CREAT)
        held += 1
        if sys.argv[1] == "write":
            os.write(handle, b"held")
    except OSError as error:
        code = error.errno
        break
print(held, code, flush=True)
sys.stdin.read()
"""


def crowd(stage: Stage, number: int, latency: float) -> None:
    """Two programs open more files than the mount has descriptors: they are told so, and everything else goes on."""
    there = {f"flat/f{turn}": source(turn) for turn in range(number)}
    stage.start({**there, **tree(10), "held": None}, latency=latency, ttl=30)
    paths = names(10)
    for _ in os.walk(stage.path):
        pass
    early = os.open(stage.path / paths[0], os.O_WRONLY | os.O_TRUNC)
    os.write(early, b"opened before")
    with stage.doing(f"{2 * number} files opened by two programs at {latency:g} ms", 2 * number):
        reading = _Hoarder(stage, "read", "flat/f%d", number)
        writing = _Hoarder(stage, "write", "held/h%d", number)
        codes = {reading.code, writing.code} - {0}
        told = ", ".join(sorted(errno.errorcode.get(code, str(code)) for code in codes)) or "nothing"
        right = bool(codes) and codes <= {errno.EMFILE, errno.ENFILE}
        stage.check(
            at_least("files that can be open at once", reading.held + writing.held + 1, LIMIT - DESCRIPTORS),
            Check("what they are told then", told, "EMFILE or ENFILE", held=right),
        )
        _goes_on(stage, paths, early)
    for hoarder in (reading, writing):
        hoarder.let_go()
    for turn in range(writing.held):
        stage.expected.put(f"held/h{turn}", b"held")
    stage.expected.doubt(f"held/h{writing.held}", b"")
    eventually(lambda: _opens(stage, paths[0]), "a file can be opened again")
    stage.finish(Bounds(open_files=2 * number, files=2 * number), within=20 + number / 25)


def _goes_on(stage: Stage, paths: list[str], early: int) -> None:
    """What needs no further file works while the descriptors are all used."""
    stage.answers()
    deeds: dict[str, Callable[[], object]] = {
        "stat": lambda: os.stat(stage.path / paths[1]),
        "ls": lambda: os.listdir(stage.path / "src"),
        "mkdir": lambda: os.mkdir(stage.path / "made"),
        "rename": lambda: os.rename(stage.path / paths[2], stage.path / f"{paths[2]}.renamed"),
        "unlink": lambda: os.unlink(stage.path / paths[3]),
        "fsync": lambda: os.fsync(early),
        "close": lambda: os.close(early),
    }
    for name, deed in deeds.items():
        began = time.monotonic()
        try:
            with stage.calls.of(name):
                deed()
        except RefusedError as error:
            stage.check(Check(f"{name} meanwhile", str(error.__cause__), "works", held=False))
        else:
            stage.check(at_most(f"seconds of {name} meanwhile", time.monotonic() - began, 5))
    stage.expected.put("made", None)
    stage.expected.move(paths[2], f"{paths[2]}.renamed")
    stage.expected.forget(paths[3])
    stage.expected.put(paths[0], b"opened before")


def _opens(stage: Stage, path: str) -> bool:
    try:
        os.close(os.open(stage.path / path, os.O_RDONLY))
    except OSError:
        return False
    return True


class _Hoarder:
    """A program that opens `number` files of this pattern, and holds them."""

    def __init__(self, stage: Stage, how: str, pattern: str, number: int) -> None:
        words: list[str | Path] = [sys.executable, "-c", _HOARDER, how, stage.path / pattern, str(number)]
        self._program = stage.begin(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._program.stdout is not None
        said = self._program.stdout.readline().split()
        assert len(said) == 2, "the program that opens many files has died"
        self.held, self.code = map(int, said)

    def let_go(self) -> None:
        """Ends it."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait()
        assert self._program.stdout is not None
        self._program.stdout.close()

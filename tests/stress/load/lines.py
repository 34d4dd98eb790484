"""The judge of files that the job and programs write at the same time.

Each line is written once, and nobody removes one: an appender adds a line, and whoever replaces a file writes back every line of
the version that it read, with one of its own. This decides three questions:

- An acknowledged line is *lost* if no file has it at the end. Only a write over an unread version can lose one.
- A conflict copy has a *cause* if the job wrote between a program's last read and its save. The line of that write is missing in
  what the program saved, and so in everything made from it. A copy without a job's line of its own is needless.
- A read is *torn* if it has a line that nobody wrote, a cut line, or one line twice: versions differ in length, so a mixture of
  two has one of these.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from pathlib import PurePath

from tests.stress.report import Check, at_most, none

from jobfs import names

from .expected import Found

#: The writer of a line that the job wrote.
JOB = "job"


class Lines:
    """Every line that was written, and where it may be: in the files of one directory. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._written: set[bytes] = set()
        self._acknowledged: set[bytes] = set()
        self._by_job: set[bytes] = set()
        self._torn: list[str] = []
        self.reads = 0

    def new(self, directory: str, writer: str) -> bytes:
        """Return a line that is about to be written, without its end; one line in five is long."""
        with self._lock:
            number = next(self._numbers)
            line = f"{directory} {writer} {number} {'x' * (number % 37 + (number % 5 == 0) * 900)}.".encode()
            self._written.add(line)
            if writer == JOB:
                self._by_job.add(line)
            return line

    def acknowledge(self, *lines: bytes) -> None:
        """Note that these lines must not be lost: their `close`, or the job's request, has returned."""
        with self._lock:
            assert self._written.issuperset(lines), lines
            self._acknowledged.update(lines)

    @property
    def job_writes(self) -> int:
        """How many acknowledged lines the job wrote."""
        with self._lock:
            return len(self._acknowledged & self._by_job)

    @property
    def acknowledged(self) -> int:
        """How many lines must not be lost."""
        with self._lock:
            return len(self._acknowledged)

    def read(self, path: str, data: bytes, *, may_be_cut: bool = False) -> None:
        """Judge the whole of what a program read; `may_be_cut`: its last line may be the beginning of one."""
        with self._lock:
            self.reads += 1
            whole, end, rest = data.rpartition(b"\n")
            if may_be_cut and any(line.startswith(rest) for line in self._written):
                data = whole + end
            self._torn += [f"{path}: {what}" for what in self._wrong_in(path, data)]

    def judge(self, found: Found, needless: int = 0) -> list[Check]:
        """Judge what the server has at the end, and all reads; lost answers may leave some `needless` copies."""
        with self._lock:
            files = [
                (path, data) for path, states in found.items() for data in states if isinstance(data, bytes)
            ]
            torn = [f"{path}: {what}" for path, data in files for what in self._wrong_in(path, data)]
            copies = self._needless(files)
            return [
                none("acknowledged lines that no file has", self._lost(files)),
                at_most(
                    f"conflict copies without a cause {copies[:3] or ''}".rstrip(), len(copies), needless
                ),
                none("torn reads", self._torn),
                none("torn files", torn),
                none("paths with more than one item", [path for path, at in found.items() if len(at) > 1]),
            ]

    def _lost(self, files: list[tuple[str, bytes]]) -> list[str]:
        there = {line for _, data in files for line in data.split(b"\n")}
        return sorted(line.decode()[:60] for line in self._acknowledged - there)

    def _needless(self, files: list[tuple[str, bytes]]) -> list[str]:
        where = Counter(line for _, data in files for line in set(data.split(b"\n")))
        return [path for path, data in files if is_copy(path) and not self._has_own_line(data, where)]

    def _has_own_line(self, data: bytes, where: Counter[bytes]) -> bool:
        return any(where[line] == 1 and line in self._by_job for line in data.split(b"\n"))

    def _wrong_in(self, path: str, data: bytes) -> list[str]:
        *lines, rest = data.split(b"\n")
        home = str(PurePath(path).parent).encode() + b" "
        foreign = [line for line in lines if line not in self._written or not line.startswith(home)]
        twice = [line for line, count in Counter(lines).items() if count > 1]
        wrong = {
            "a line that nobody wrote": foreign,
            "a line twice": twice,
            "a cut line": [rest] if rest else [],
        }
        return [f"{what}, {some[0]!r:.80}, of {len(data)} bytes" for what, some in wrong.items() if some]


def is_copy(path: str) -> bool:
    """Return True if this is the name of a second version."""
    return names.parse_second_version(path) is not None

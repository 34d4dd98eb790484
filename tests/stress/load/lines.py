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
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePath

from tests.stress.report import Check, none
from tests.support.judge import Found, Judge, State, doubled, second_version

#: The writer of a line that the job wrote.
JOB = "job"


class Lines(Judge):
    """Every line that was written, and where it may be: in the files of one directory. Safe from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._written: set[bytes] = set()
        self._acknowledged: set[bytes] = set()
        self._by_job: set[bytes] = set()
        self._torn: list[str] = []
        #: How many reads were of a whole file.
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
        """Return how many acknowledged lines the job wrote."""
        with self._lock:
            return len(self._acknowledged & self._by_job)

    @property
    def acknowledged(self) -> int:
        """Return how many lines must not be lost."""
        with self._lock:
            return len(self._acknowledged)

    def read(self, path: str, data: bytes, *, may_be_cut: bool = False) -> None:
        """Judge all that a program has read; `may_be_cut`: it may be only the beginning of the file."""
        with self._lock:
            self.reads += not may_be_cut
            whole, end, rest = data.rpartition(b"\n")
            if may_be_cut and any(line.startswith(rest) for line in self._written):
                data = whole + end
            self._torn += self.torn({path: [data]})

    def judge(self, found: Found, needless: int = 0) -> list[Check]:
        """Judge what the server has at the end, and all reads; lost answers may leave some `needless` copies."""
        with self._lock:
            return [
                none("acknowledged lines that no file has", self.lost(found)),
                none("conflict copies without a cause", self.needless(found), needless),
                none("torn reads", self._torn),
                none("torn files", self.torn(found)),
                none("paths with more than one item", doubled(found)),
            ]

    def owed(self) -> Iterator[tuple[Collection[State], str]]:
        for line in sorted(self._acknowledged):
            yield [line], line.split(b" ")[0].decode()

    def parts(self, state: State) -> Iterable[State]:
        return state.split(b"\n") if isinstance(state, bytes) else ()

    def needless(self, found: Found) -> list[str]:
        """Return the copies that have no line by the job that no other file has."""
        files = [(path, set(self.parts(state))) for path, states in found.items() for state in states]
        where = Counter(line for _, lines in files for line in lines)
        own = {line for line in self._by_job if where[line] == 1}
        return [path for path, lines in files if second_version(path) and own.isdisjoint(lines)]

    def flaws(self, path: str, state: State) -> list[str]:
        if not isinstance(state, bytes):
            return []
        *lines, rest = state.split(b"\n")
        home = str(PurePath(path).parent).encode() + b" "
        foreign = [line for line in lines if line not in self._written or not line.startswith(home)]
        twice = [line for line, count in Counter(lines).items() if count > 1]
        wrong = {
            "a line that nobody wrote": foreign,
            "a line twice": twice,
            "a cut line": [rest] if rest else [],
        }
        return [f"{what}, {some[0]!r:.80}, of {len(state)} bytes" for what, some in wrong.items() if some]

"""The bounds (vfs/semantics.md 6, Bounds): constants, whatever the number of files, saves and hours; and what a mount costs
while it works, read from outside once in a while, with the highest of each kept.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from tests.stress.report import Check, at_most
from tests.support.judge import is_hidden, second_version

from jobfs.emulator import JobSide

#: Of a mount, and one more for each file that a program has open.
DESCRIPTORS = 300
#: 24 that serve the kernel while no program waits, 16 each for saves, downloads and listings, 8 beside saves, and some more.
THREADS = 100
#: Of one mount on the server at any moment: a few dozen.
HIDDEN = 64
#: And so many directories that programs remove in the time of two listings.
REMOVED = 500
#: Bytes of memory a file: that an outage may add for one that is unsent, 512 of them for the record of the program that wrote it
#: (vfs/semantics.md 4.46); for one of the workspace, all that is known of it.
MEMORY_UNSENT, MEMORY_KNOWN = 2560, 4096
#: Bytes of memory that caches, buffers and stacks of threads may take in all, once; half of it in a form that ends in seconds,
#: where as much is needed on a busy machine as on one that is not (no more than 17 MB was seen).
MEMORY, MEMORY_SOON = 48 << 20, 24 << 20
#: Rows of a table of the journal at rest that belong to no item: tombstones, which are pruned while it is mounted.
ROWS = 100


@dataclass(frozen=True)
class Bounds:
    """What a workload changes of them: `open_files` that its programs hold open; `files` that it made or had unsent.

    `conflicts`: second versions that there may be because answers were lost (save/protocol.md R1). `flipped`: names that may show
    another state than the last one, where requests are carried out late (save/protocol.md, What the API does not allow).
    `removed`: directories that are removed, which stand under hidden names until the next listing, two seconds later at most.
    """

    open_files: int = 0
    files: int = 0
    conflicts: int = 0
    flipped: int = 0
    removed: int = 0


def standing(
    peak: Sample, rest: Sample, baseline: Sample, items: int, bounds: Bounds, memory: int = MEMORY
) -> list[Check]:
    """Return the bounds of every workload; `items` are those on the server at rest, `memory` is in bytes."""
    grown, allowed = peak.memory - baseline.memory, memory + MEMORY_KNOWN * bounds.files
    return [
        at_most("descriptors at peak", peak.descriptors, DESCRIPTORS + bounds.open_files),
        at_most("descriptors at rest", rest.descriptors, DESCRIPTORS),
        at_most("threads at peak", peak.threads, THREADS),
        at_most("MB of memory more than at the start", grown / 1e6, allowed / 1e6),
        at_most("hidden items at peak", peak.hidden, HIDDEN + min(bounds.removed, REMOVED)),
        at_most("hidden items at rest", rest.hidden, 0),
        at_most("conflict copies", peak.conflicts, bounds.conflicts),
        at_most("unsent rows at rest", rest.unsent, 0),
        at_most("local bytes at rest", rest.local_bytes, 0),
        *[at_most(f"rows of {name} at rest", rows, items + ROWS) for name, rows in rest.tables.items()],
    ]


#: How many rows of the journal mean that something is not sent, or not cleaned up, yet.
_UNSENT = """
SELECT (SELECT count(*) FROM change)
    + (SELECT count(*) FROM file WHERE record ->> 'generation' AND record ->> 'never_sent' IS NOT 1)
"""


@dataclass
class Sample:
    """Descriptors, threads and resident bytes of the mount; rows of its journal by table, files and bytes it keeps
    unsent; on the server hidden items and conflict copies."""

    descriptors: int = 0
    threads: int = 0
    memory: int = 0
    unsent: int = 0
    local_files: int = 0
    local_bytes: int = 0
    hidden: int = 0
    conflicts: int = 0
    tables: Counter[str] = field(default_factory=Counter)

    @property
    def at_rest(self) -> bool:
        """Return whether everything is sent and cleaned up."""
        return not (self.unsent or self.local_files or self.hidden)

    def highest(self, other: Sample) -> Sample:
        """Return the greater one of each number."""
        names = [part.name for part in fields(self) if part.name != "tables"]
        numbers = {name: max(getattr(self, name), getattr(other, name)) for name in names}
        return Sample(**numbers, tables=self.tables | other.tables)


class Sampler:
    """Takes a sample every `pause` seconds in a thread of its own, from `start` to `stop`.

    `process` returns the mount's process id, or None while there is none; `state` is its state directory. What can't be read at
    that moment (a process that has just ended, a journal that is just made) keeps the last value.
    """

    def __init__(self, job: JobSide, state: Path, process: Callable[[], int | None], pause: float) -> None:
        self._job, self._state, self._process, self._pause = job, state, process, pause
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.now, self.peak = Sample(), Sample()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            self.take()

    def take(self) -> Sample:
        """Take a sample now."""
        with self._lock:
            sample = replace(self.now)
            with suppress(OSError, KeyError):
                self._read_process(sample)
            with suppress(sqlite3.Error):
                self._read_state(sample)
            suspects = [
                item.path for item in self._job.items() if ".jobfs-" in item.path or ".conflict-" in item.path
            ]
            sample.hidden = sum(map(is_hidden, suspects))
            sample.conflicts = sum(second_version(path) is not None for path in suspects)
            self.now, self.peak = sample, self.peak.highest(sample)
            return sample

    def _read_process(self, sample: Sample) -> None:
        pid = self._process()
        if pid is None:
            return
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        sample.threads = int(status["Threads"])
        sample.memory = int(status["VmRSS"].removesuffix("kB")) * 1024
        # Only root may list the descriptors of a mount, which is not dumpable; Linux 6.2 and later counts them for all.
        directory = f"/proc/{pid}/fd"
        sample.descriptors = os.stat(directory).st_size or len(os.listdir(directory))

    def _read_state(self, sample: Sample) -> None:
        sizes = []
        for path in self._state.glob("*/*/bytes/*"):
            with suppress(OSError):
                sizes.append(path.stat().st_size)
        sample.local_files, sample.local_bytes = len(sizes), sum(sizes)
        tables, unsent = Counter[str](), 0
        for journal in self._state.glob("*/*/journal.db"):
            with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=1)) as db:
                names = [
                    name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                ]
                tables.update({name: _number(db, f'SELECT count(*) FROM "{name}"') for name in names})
                unsent += _number(db, _UNSENT)
        sample.tables, sample.unsent = tables, unsent


def _number(db: sqlite3.Connection, query: str) -> int:
    return int(db.execute(query).fetchone()[0])

"""The bounds (vfs/semantics.md 6, Bounds): constants, whatever the number of files, saves and hours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.stress.report import Check, at_most

from .figures import Sample

#: Of a mount, and one more for each file that a program has open.
DESCRIPTORS = 300
#: 24 that serve the kernel while no program waits, 16 each for saves, downloads and listings, 8 beside saves, and some more.
THREADS = 100
#: Of one mount on the server at any moment: a few dozen.
HIDDEN = 64
#: And so many directories that programs remove in the time of two listings.
REMOVED = 500
#: Bytes of memory a file: that an outage may add for one that is unsent; for one of the workspace, all that is known of it.
MEMORY_UNSENT, MEMORY_KNOWN = 2048, 4096
#: Bytes of memory that caches, buffers and stacks of threads may take in all, once.
MEMORY = 48 << 20
#: Rows of a table of the journal at rest that belong to no item: tombstones, which are pruned while it is mounted.
ROWS = 1000


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

    @property
    def hidden(self) -> int:
        """At most, at any moment."""
        return HIDDEN + min(self.removed, REMOVED)

    @property
    def descriptors(self) -> int:
        """At most."""
        return DESCRIPTORS + self.open_files

    @property
    def memory(self) -> int:
        """Bytes that the mount may grow by."""
        return MEMORY + MEMORY_KNOWN * self.files


def standing(peak: Sample, rest: Sample, baseline: Sample, items: int, bounds: Bounds) -> list[Check]:
    """The bounds of every workload; `items` are those on the server at rest."""
    return [
        at_most("descriptors at peak", peak.descriptors, bounds.descriptors),
        at_most("descriptors at rest", rest.descriptors, DESCRIPTORS),
        at_most("threads at peak", peak.threads, THREADS),
        at_most(
            "MB of memory more than at the start", (peak.memory - baseline.memory) / 1e6, bounds.memory / 1e6
        ),
        at_most("hidden items at peak", peak.hidden, bounds.hidden),
        at_most("hidden items at rest", rest.hidden, 0),
        at_most("conflict copies", peak.conflicts, bounds.conflicts),
        at_most("unsent rows at rest", rest.unsent, 0),
        at_most("local bytes at rest", rest.local_bytes, 0),
        *[at_most(f"rows of {name} at rest", rows, items + ROWS) for name, rows in rest.tables.items()],
    ]


#: The columns of the report: the title with the bounds, and what a sample shows there.
COLUMNS: dict[str, Callable[[Sample], str]] = {
    f"descriptors\n≤ {DESCRIPTORS} + open": lambda s: f"{s.descriptors:,}",
    f"threads\n≤ {THREADS}": lambda s: f"{s.threads:,}",
    "memory, MB\n≤ start + 48 MiB + 4 KiB/file": lambda s: f"{s.memory / 1e6:,.0f}",
    f"journal rows\n≤ items + {ROWS} a table, 0 unsent": lambda s: f"{s.tables.total():,}",
    "local MB\n0 at rest": lambda s: f"{s.local_bytes / 1e6:,.1f}",
    f"hidden items\n≤ {HIDDEN}, 0 at rest": lambda s: f"{s.hidden:,}",
    "conflict copies\n≤ lost answers / 10": lambda s: f"{s.conflicts:,}",
}

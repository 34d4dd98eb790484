"""All workloads by name: the rows that each fills, and the systems that take part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from . import metadata, reading, writing
from .measure import Measured, Row
from .trial import Trial


@dataclass(frozen=True)
class Workload:
    """A workload: `run` yields samples for `rows`. `floor` and `peers`: whether these take part, too."""

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Trial], Iterator[Measured]]
    peers: bool = True
    floor: bool = False
    huge: bool = False


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("ls", reading.LISTING, reading.listing, floor=True),
        Workload("find", reading.FIND, reading.finding),
        Workload("grep", reading.GREP, reading.grepping, floor=True),
        Workload("cat", reading.CAT, reading.streaming),
        Workload("middle", reading.MIDDLE, reading.reading_block),
        Workload("cp", writing.COPY, writing.copying),
        Workload("save", writing.SAVE, writing.saving),
        Workload("replace", writing.REPLACE, writing.replacing),
        Workload("new", writing.NEW, writing.creating),
        Workload("git", reading.GIT, reading.git_status),
        Workload("tar", reading.TAR, reading.archiving),
        Workload("stat", metadata.STAT, metadata.single_calls, floor=True),
        Workload("recheck", metadata.RECHECK, metadata.recheck, peers=False),
        Workload("absent", metadata.ABSENT, metadata.absent_names, peers=False),
        Workload("mount", metadata.MOUNT, metadata.mounting, peers=False),
        Workload("huge", metadata.HUGE, metadata.huge_tree, peers=False, huge=True),
    )
}

#: The number of workloads that write to the data set `saved`; each run of each has a copy of its own.
WRITING = 4

"""Ranges of bytes, without locks or I/O: those stored in a sparse file, and those that a handle has read in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class IntervalSet:
    """Disjoint half-open intervals of byte offsets, merged where they touch. Not thread-safe."""

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0  # bytes covered

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int) -> None:
        """Cover [start, end), which may be empty."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self.total += end - start - sum(self._ends[first:last]) + sum(self._starts[first:last])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def covers(self, start: int, end: int) -> bool:
        """Return whether every byte of [start, end) is covered; an empty interval is."""
        return start >= end or self.contiguous_end(start) >= end

    def contiguous_end(self, position: int) -> int:
        """Return the end of the interval that holds `position`; `position` itself if none does."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._ends[index]) if index >= 0 else position

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first part of [start, end) that is not covered; None if there is none."""
        start = self.contiguous_end(start)
        if start >= end:
            return None
        following = bisect_left(self._starts, start)
        return start, min([end, *self._starts[following : following + 1]])


KIB = 1024
MIB = 1024 * KIB

#: Ranges are aligned to this many bytes, and no smaller: 4 KiB in the middle of a file cost one such chunk.
CHUNK = 256 * KIB
#: The longest range that a sequential run in the middle of a file requests at once.
CHUNK_MAX = 16 * MIB
#: A read that is less than this far ahead of a running download waits for it instead of making a request.
NEAR = MIB
#: The kernel's readahead keeps two reads of 128 KiB in flight, which arrive in any order.
_SLACK = 256 * KIB


class SequentialRun:
    """The range [start, end) that a handle has read in order. Races between its readers are harmless."""

    __slots__ = ("end", "start")

    def __init__(self, start: int = -1, end: int = -1) -> None:
        self.start = start
        self.end = end

    def note_read(self, offset: int, end: int) -> None:
        """Extend the run by a read of [offset, end), or begin a new run with it."""
        if self.end >= 0 and self.end - _SLACK <= offset <= self.end + _SLACK:
            self.start = min(self.start, offset)
            self.end = max(self.end, end)
        else:
            self.start, self.end = offset, end

    @property
    def is_from_start(self) -> bool:
        """Whether the file is being read from its beginning, and so all of it is wanted."""
        return self.start == 0

    def next_chunk_size(self) -> int:
        """Return how many bytes to request at once: twice the length of the run, within bounds."""
        length = max(self.end - self.start, 0)
        return min(max(2 * length // CHUNK * CHUNK, CHUNK), CHUNK_MAX)

    def is_sequential(self, read_size: int) -> bool:
        """Return whether the run is longer than one read of `read_size` bytes, so that more than one read made it."""
        return self.end - self.start > read_size

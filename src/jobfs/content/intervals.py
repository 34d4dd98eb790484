"""Which bytes of a sparse file are there: a set of half-open intervals, pure and without locks."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class IntervalSet:
    """Disjoint half-open intervals of byte offsets, merged where they touch. Not thread-safe."""

    __slots__ = ("_ends", "_starts", "total")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0  # bytes covered

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, start: int, end: int) -> None:
        """Cover [start, end); nothing if it is empty."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(start, end)])

    def remove(self, start: int, end: int) -> None:
        """Uncover [start, end)."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        rest = [(self._starts[first], start), (end, self._ends[last - 1])]
        self._replace(first, last, [(a, b) for a, b in rest if a < b])

    def copy(self) -> IntervalSet:
        """Another set of the same intervals."""
        twin = IntervalSet()
        twin._starts, twin._ends, twin.total = self._starts.copy(), self._ends.copy(), self.total
        return twin

    def clear(self) -> None:
        """Uncover everything."""
        self._replace(0, len(self._starts), [])

    def covers(self, start: int, end: int) -> bool:
        """True if every byte of [start, end) is covered; an empty interval is."""
        return start >= end or self.covered_until(start) >= end

    def covered_until(self, position: int) -> int:
        """The end of the interval that holds `position`; `position` itself if none does."""
        index = bisect_right(self._starts, position) - 1
        return max(position, self._ends[index]) if index >= 0 else position

    def covered_before(self, position: int) -> int:
        """The end of the last interval that begins before `position`, at most `position`; 0 if none does."""
        index = bisect_left(self._starts, position) - 1
        return min(position, self._ends[index]) if index >= 0 else 0

    def next_start(self, position: int) -> int | None:
        """Where the first interval at or after `position` begins; None if there is none."""
        index = bisect_left(self._starts, position)
        return self._starts[index] if index < len(self._starts) else None

    def gap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first stretch of [start, end) that is not covered; None if there is none."""
        start = self.covered_until(start)
        if start >= end:
            return None
        following = self.next_start(start)
        return start, end if following is None else min(end, following)

    def _replace(self, first: int, last: int, new: list[tuple[int, int]]) -> None:
        old = sum(self._ends[first:last]) - sum(self._starts[first:last])
        self._starts[first:last] = [start for start, _ in new]
        self._ends[first:last] = [end for _, end in new]
        self.total += sum(end - start for start, end in new) - old

"""Bytes that the disk did not take: a bounded window in memory, so that a full disk stops no reader."""

from __future__ import annotations

from collections import OrderedDict

from jobfs.content.run import MIB

#: Bytes kept in memory for one version, oldest dropped first.
WINDOW = 32 * MIB
#: How far a download may run ahead of its reader before it waits: what is dropped was read long ago.
AHEAD = WINDOW // 2


class Spill:
    """Segments of a content by position. Not thread-safe."""

    def __init__(self) -> None:
        self._segments: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0

    def put(self, position: int, data: bytes) -> list[tuple[int, int]]:
        """Keep `data`; the intervals that had to be dropped for it."""
        self._bytes += len(data) - len(self._segments.pop(position, b""))
        self._segments[position] = data
        dropped = []
        while self._bytes > WINDOW and len(self._segments) > 1:
            start, old = self._segments.popitem(last=False)
            self._bytes -= len(old)
            dropped.append((start, start + len(old)))
        return dropped

    def get(self, position: int, end: int) -> bytes:
        """The bytes from `position` on that one segment has, at most to `end`; empty if none has."""
        for start, data in self._segments.items():
            if start <= position < start + len(data):
                return data[position - start : end - start]
        return b""

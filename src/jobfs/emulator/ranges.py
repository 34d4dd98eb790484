"""The Range header of a download: one range of bytes; everything else is answered whole, as HTTP allows."""

from __future__ import annotations

import re

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.IGNORECASE)


def content_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end (exclusive) of what to send; None: the whole; start == end: nothing fits, a 416."""
    match = _RANGE.fullmatch(header) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        return _last(int(match[2]), size)
    start, last = int(match[1]), int(match[2] or size)
    if match[2] and last < start:
        return None
    return (start, min(last + 1, size)) if start < size else (0, 0)


def _last(count: int, size: int) -> tuple[int, int]:
    return (max(size - count, 0), size) if count and size else (0, 0)

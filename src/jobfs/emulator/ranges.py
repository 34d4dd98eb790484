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
        return (max(size - int(match[2]), 0), size) if int(match[2]) and size else (0, 0)
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    return (start, end) if start < size else (0, 0)

"""From a sequence that fails to the shortest that still does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrunk(sequence: Sequence[T], fails: Callable[[Sequence[T]], bool], seconds: float) -> list[T]:
    """`sequence` with every piece left out without which `fails` still says so, found in about `seconds`.

    Pieces of half the sequence are tried first, then of a quarter, down to single elements, until none can be left out.
    """
    end = time.monotonic() + seconds
    kept = list(sequence)
    piece = max(1, len(kept) // 2)
    while True:
        start, shorter = 0, False
        while start < len(kept):
            if time.monotonic() > end:
                return kept
            candidate = kept[:start] + kept[start + piece :]
            if candidate and fails(candidate):
                kept, shorter = candidate, True
            else:
                start += piece
        if piece > 1:
            piece = (piece + 1) // 2 if piece > 2 else 1
        elif not shorter:
            return kept

"""When a version's name can be trusted to stand for one content only."""

from __future__ import annotations

import re

#: Seconds in which two contents may share one `updatedAt`: if it shows whole seconds, and if it shows more.
COARSE = 2.0
FINE = 0.05

_FRACTION = re.compile(r"\.[0-9]*[1-9]")


def shows_fractions(updated_at: str) -> bool:
    """True if this `updatedAt` proves that the server's clock is finer than a second."""
    return _FRACTION.search(updated_at) is not None


def racy(updated_ns: int, moment: float, *, fine: bool) -> bool:
    """True if bytes whose download began at `moment` (server's clock, seconds) may have a twin of that name.

    Content is named by id, `updatedAt` and size (semantics.md section 3). Where `updatedAt` shows whole
    seconds, the job may write twice within one second and to the same size: a download between the two holds
    the first content under the name of both. So what was downloaded within 2 s (a second for the resolution,
    another for the error of our idea of the server's clock) after the change is good for the handles that are
    open now, not for later ones. Once any `updatedAt` has shown a fraction (`fine`), 50 ms do: the request
    itself was sent after that change had been seen. An `updatedAt` that cannot be read proves nothing: racy.
    """
    return updated_ns == 0 or moment < updated_ns / 1e9 + (FINE if fine else COARSE)

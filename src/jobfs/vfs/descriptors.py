"""How many files the programs of one mount may have open (vfs/semantics.md 6, Bounds)."""

from __future__ import annotations

import contextlib
import resource

#: Descriptors for the mount's own work: connections, the journal, transfers, and to answer `status` and end.
_RESERVE = 300
#: What counts as no limit.
_UNLIMITED = 1 << 20


def ask_for_more() -> None:
    """Raise this process's limit on descriptors as far as it may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system may have a lower limit of its own: then the one that it gave holds.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def for_programs() -> int:
    """Most files that programs may have open at once, one descriptor each: what is left for the mount's work is enough."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _UNLIMITED if soft == resource.RLIM_INFINITY else soft
    return max(limit - _RESERVE, limit // 4)

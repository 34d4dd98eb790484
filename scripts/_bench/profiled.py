"""`python -m _bench.profiled DIR mount …`: run jobfs under cProfile in every thread; write the sum to a file in DIR.

The clock is each thread's CPU time, so that waiting counts as nothing.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import sys
import threading
import time
from types import FrameType
from typing import Any

_profiles: list[cProfile.Profile] = []


def _begin(frame: FrameType | None = None, event: str = "", argument: Any = None) -> None:
    """Start the profile of the current thread; called for its first event."""
    profile = cProfile.Profile(time.thread_time)
    _profiles.append(profile)
    profile.enable()


def main() -> int:
    """Run jobfs with the remaining arguments; return its exit code."""
    out = sys.argv.pop(1)
    from jobfs.__main__ import main as jobfs

    _begin()
    if sys.version_info < (3, 12):  # from 3.12 on, a profile covers all threads
        threading.setprofile(_begin)
    try:
        return jobfs() or 0
    finally:
        threading.setprofile(None)
        total: pstats.Stats | None = None
        for profile in _profiles:
            if not profile.getstats():
                continue
            if total is None:
                total = pstats.Stats(profile)
            else:
                total.add(profile)
        if total is not None:
            total.dump_stats(os.path.join(out, f"{os.getpid()}.prof"))


if __name__ == "__main__":
    sys.exit(main())

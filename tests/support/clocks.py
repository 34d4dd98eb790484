"""A clock that a test moves; and a mount whose clocks a test moves, while those of the kernel stay where they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jobfs.emulator import Server

from .mounts import MountedJob

#: Each clock is as many seconds off as its file says.
_CODE = """
import sys, time
clocks, sys.argv = sys.argv[1], ["jobfs", *sys.argv[2:]]
def moved(clock, name, unit=1):
    def read(*which):
        with open(f"{clocks}/{name}") as file:
            return clock(*which) + int(file.read() or 0) * unit
    return read
time.time, time.time_ns = moved(time.time, "wall"), moved(time.time_ns, "wall", 10**9)
time.monotonic, time.clock_gettime = moved(time.monotonic, "elapsed"), moved(time.clock_gettime, "elapsed")
from jobfs.__main__ import main
sys.exit(main())
"""


class Clock:
    """Seconds that pass only on request; for code that calls a clock, and for code that uses a module like `time`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    monotonic = __call__

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ClockedMount(MountedJob):
    """A mount whose clocks can be moved."""

    def __init__(self, server: Server, home: Path, **options: Any) -> None:
        super().__init__(server, home, **options)
        for name in ("wall", "elapsed"):
            (home / name).write_text("0")

    def command(self) -> list[str]:
        return [sys.executable, "-c", _CODE, str(self.home), *super().command()[3:]]

    def set_clock(self, seconds: int) -> None:
        """Set the clock on the wall so many seconds forwards, or backwards."""
        (self.home / "wall").write_text(str(seconds))

    def let_pass(self, seconds: int) -> None:
        """Let so many seconds pass at once."""
        self.set_clock(seconds)
        (self.home / "elapsed").write_text(str(seconds))

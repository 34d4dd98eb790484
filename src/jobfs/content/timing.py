"""The clock and the pauses of all downloads of a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobfs.api.deadline import steady_time


@dataclass(frozen=True)
class Timing:
    """Times in seconds. `clock` returns seconds since the epoch, which no change of this machine's clock affects."""

    clock: Callable[[], float] = steady_time
    #: For how long a download continues after the last handle was closed, because many files are soon opened again.
    linger: float = 0.5
    #: For how long a failure is also the answer to the next read: the kernel repeats a read that its readahead has lost.
    echo: float = 0.02
    #: After how long a transfer may lose its thread or its connection to another one.
    turn: float = 1.0

"""The configuration of a server, and its validation."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobfs.errors import UsageError

from .behaviour import Behaviour
from .faults import Rule
from .records import is_valid_id

#: The job and the key of a server that a test starts without naming any.
DEFAULT_JOB = "test12345678901234567890"
DEFAULT_KEY = "local-test-key"


_WORD = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorConfig:
    """Everything but the directory. Raises UsageError for a malformed job id, a bad key or an impossible port.

    `jobs` are created if the directory does not have them; if empty: those in the directory, or a new one. The first is the
    server's `job`. `port` 0: any free one. `control_port`: a second port, for the control routes only (control.py); None: they
    are on `port`. `clock` returns seconds since the epoch; the server's clock is ahead of it by the switch `clock_skew`.
    """

    jobs: tuple[str, ...] = (DEFAULT_JOB,)
    key: str = DEFAULT_KEY
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None
    behaviour: Behaviour = field(default_factory=Behaviour)
    faults: tuple[Rule, ...] = ()
    seed: int = 0
    log: Path | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for job in self.jobs:
            if not is_valid_id(job):
                raise UsageError(f"malformed job id {job!r}: 24 characters of a-z and 0-9")
        if not _WORD.fullmatch(self.key):
            raise UsageError("the API key must be one word of printable ASCII")
        for port in (self.port, self.control_port or 0):
            if not 0 <= port <= 65535:
                raise UsageError(f"no such port: {port}; 0 to 65535, 0 for any free one")

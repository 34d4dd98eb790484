"""A local server of the Workspace Instance API, for demos, tests and authors of other clients.

from jobfs.emulator import Behaviour, EmulatorConfig, running

with running(EmulatorConfig(behaviour=Behaviour(find="prefix"))) as server:
    server.store.seed({"notes/a.md": "hello"})
    ...                                             # a client at server.url, server.job, server.key
    server.faults.fail_next("drop_after", on="create")  # the next create is executed, its answer is lost
    server.faults.set_rate("weather", 0.1)          # a tenth of the requests fail, each in a random way
    server.set(latency=50, bandwidth=2_000_000)     # a slow network
    with server.down():                             # connections are refused
        ...
    assert not server.log.changes()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .behaviour import Behaviour
from .config import DEFAULT_JOB, DEFAULT_KEY, EmulatorConfig
from .faults import Faults, Rule
from .jobside import JobSide
from .log import Entry, RequestLog
from .records import Job, StoredItem

if TYPE_CHECKING:
    from .runner import Server, running

__all__ = [
    "DEFAULT_JOB",
    "DEFAULT_KEY",
    "Behaviour",
    "EmulatorConfig",
    "Entry",
    "Faults",
    "Job",
    "JobSide",
    "RequestLog",
    "Rule",
    "Server",
    "StoredItem",
    "running",
]


def __getattr__(name: str) -> object:
    # Imported late, so that the switches can be described where the extra is not installed.
    if name in ("Server", "running"):
        from . import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

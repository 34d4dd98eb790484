"""A local server of the Workspace Instance API, for demos, tests and authors of other clients.

from jobfs.emulator import Behaviour, EmulatorConfig, running

with running(EmulatorConfig(behaviour=Behaviour(find="prefix"))) as server:
    server.store.seed({"notes/a.md": "hello"})
    ...                                             # a client at server.url, server.job, server.key
    server.faults.next("drop_after", on="create")
    assert not server.log.changes()
"""

from .behaviour import Behaviour
from .config import DEFAULT_JOB, DEFAULT_KEY, EmulatorConfig
from .faults import Faults, Rule
from .jobside import JobSide
from .log import Entry, RequestLog
from .records import Job, StoredItem
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

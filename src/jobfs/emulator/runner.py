"""A running server: for the command line, and for tests as `with running() as server`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .app import App
from .behaviour import Behaviour
from .config import EmulatorConfig
from .control import Control
from .faults import Faults
from .jobside import JobSide
from .listener import Listener
from .log import RequestLog
from .records import new_id
from .store import EmulatorStore
from .workspace import Workspaces


class Server:
    """The local server on one directory. `start` and `stop` may alternate: state, port and log stay.

    `store` is the direct side of the first job, `job` its id, `jobs` all ids, `faults` and `log` what their
    modules say, `key` the API key.
    """

    def __init__(self, config: EmulatorConfig, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self.key = config.key
        self._state = EmulatorStore(directory, config.behaviour, config.seed)
        try:
            self.log = RequestLog(config.log)
            self._workspaces = Workspaces(self._state)
            self.jobs = config.jobs or tuple(self._workspaces) or (new_id(),)
            sides = [self.job_side(job) for job in self.jobs]
        except BaseException:
            self._state.close()
            raise
        self.job, self.store = self.jobs[0], sides[0]
        self.faults = Faults(config.faults, config.seed)
        self._listener = Listener(config.host, config.port)
        self._control = Control(self._state, self._workspaces, self.faults, self.log, self._listener)
        self._app = App(self._state, self._workspaces, config.key, self.faults, self.log, self._control)
        self._control_listener = Listener("127.0.0.1", config.control_port or 0)

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self._listener.port}"

    @property
    def control_url(self) -> str:
        """The base URL of the control routes, without a slash at the end: `url`, or that of their own port."""
        own = self.config.control_port is not None
        return f"http://127.0.0.1:{self._control_listener.port}" if own else self.url

    @property
    def is_open(self) -> bool:
        """False while connections are refused."""
        return self._listener.is_open

    @property
    def behaviour(self) -> Behaviour:
        """The switches in force; assign another to change them, the next request sees it."""
        return self._state.behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._state.behaviour = behaviour

    def set(self, **changes: Any) -> None:
        """Changes some switches."""
        self.behaviour = self.behaviour.with_changes(**changes)

    def job_side(self, job_id: str) -> JobSide:
        """Direct access to the items of a job, which is made if it is not there."""
        return JobSide(self._workspaces.add(job_id))

    def start(self) -> None:
        """Listens; UsageError if the address can't be had."""
        self._listener.start(self._app)
        if self.config.control_port is not None:
            self._control_listener.start(self._control)

    def stop(self) -> None:
        """Stops answering: connections break, new ones are refused; the port stays this server's."""
        self._listener.close()

    @contextmanager
    def down(self) -> Iterator[None]:
        """The server is not there for a while; its port and state are kept."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def reset(self) -> None:
        """No items, no faults, an empty log, the first behaviour, open again; for tests that share a server."""
        self._listener.open()
        self.faults.clear()
        self.faults.reseed(self.config.seed)
        self.behaviour = self.config.behaviour
        self.store.clear()
        self.log.clear()

    def close(self) -> None:
        """Stops and gives ports and directory back."""
        self._control_listener.stop()
        self._listener.stop()
        self._state.close()
        self.log.close()


@contextmanager
def running(config: EmulatorConfig | None = None, directory: Path | None = None) -> Iterator[Server]:
    """A server in a thread of this process, on loopback, on `directory` or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="emulator-") as temporary:
        server = Server(config or EmulatorConfig(), directory or Path(temporary))
        try:
            server.start()
            yield server
        finally:
            server.close()

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
    """The local server on one directory. `start` and `stop` may alternate: state, port and log are kept.

    `store` is the JobSide of the first job, `job` its id, `jobs` all ids, `key` the API key; for `faults` and `log`, see their
    modules.
    """

    def __init__(self, config: EmulatorConfig, directory: Path) -> None:
        self.config = config
        self.directory = directory
        self.key = config.key
        self._state = EmulatorStore(directory, config.behaviour, config.seed, config.clock)
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
        """Return the base URL, without a trailing slash."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self._listener.port}"

    @property
    def control_url(self) -> str:
        """Return the base URL of the control routes, without a trailing slash: `url`, or that of their own port."""
        own = self.config.control_port is not None
        return f"http://127.0.0.1:{self._control_listener.port}" if own else self.url

    @property
    def is_open(self) -> bool:
        """Return False while connections are refused."""
        return self._listener.is_open

    @property
    def behaviour(self) -> Behaviour:
        """The current switches; assign another Behaviour to change them from the next request on."""
        return self._state.behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self._state.behaviour = behaviour

    def set(self, **changes: Any) -> None:
        """Change some switches."""
        self.behaviour = self.behaviour.with_changes(**changes)

    def job_side(self, job_id: str) -> JobSide:
        """Return direct access to the items of a job, which is created if it does not exist."""
        return JobSide(self._workspaces.add(job_id))

    def start(self) -> None:
        """Start to listen. Raises UsageError if the address can't be bound."""
        self._listener.start(self._app)
        if self.config.control_port is not None:
            self._control_listener.start(self._control)

    def stop(self) -> None:
        """Stop serving: break connections and refuse new ones. The port stays bound."""
        self._listener.close()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server for the duration of a with block; its port and state are kept."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def reset(self) -> None:
        """Remove all items, faults and log entries, restore the first behaviour, and open the port.

        For tests that share a server.
        """
        self._listener.open()
        self.faults.clear()
        self.faults.reseed(self.config.seed)
        self.behaviour = self.config.behaviour
        self.store.clear()
        self.log.clear()

    def close(self) -> None:
        """Stop, and release the ports and the directory."""
        self._control_listener.stop()
        self._listener.stop()
        self._state.close()
        self.log.close()


@contextmanager
def running(config: EmulatorConfig | None = None, directory: Path | None = None) -> Iterator[Server]:
    """Run a server in a thread of this process, on loopback, with `directory` or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="emulator-") as temporary:
        server = Server(config or EmulatorConfig(), directory or Path(temporary))
        try:
            server.start()
            yield server
        finally:
            server.close()

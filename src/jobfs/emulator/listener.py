"""uvicorn in a thread: starts and stops in milliseconds, and shows each request its connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from jobfs.errors import UsageError

#: Seconds that an idle connection is kept.
_KEEP_ALIVE = 600

#: Seconds that answers on their way are given when the server stops.
_GRACE = 0.2


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Puts the connection into the scope's state, where faults find it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Waits for an event instead of looking every tenth of a second whether to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def request_stop(self) -> None:
        """Makes the loop end, if it has not; from any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        """Serves until asked to stop."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends listeners and connections; what hangs is broken off."""
        for server in self.servers:
            for listening in server.sockets:
                self._loop.remove_reader(listening)
        for _ in range(3):
            # What is accepted already becomes a connection within so many turns of the loop: else nobody would close it.
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_GRACE)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            # Late work goes on without a connection: it dies with the server.
            for task in list(self.server_state.tasks):
                task.cancel()
        await asyncio.sleep(0)


class Listener:
    """One listening address and the thread that serves it; safe from any thread but the one that serves.

    From the first start on the port is its own, also while it is closed: clients are refused then, and none
    of them gets it as the port that it calls from (and talks to itself).
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._lock = threading.Lock()
        self._app: ASGIApp
        self._kept: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._timer: threading.Timer | None = None

    @property
    def port(self) -> int:
        """The port, real once it was started."""
        return self._address[1]

    @property
    def is_open(self) -> bool:
        """True if clients are answered."""
        return self._server is not None

    def start(self, app: ASGIApp) -> None:
        """Binds, unless it has its port, and serves `app`; UsageError if the address can't be had."""
        with self._lock:
            self._app = app
            if self._kept is None:
                self._kept = _bind(*self._address)
                self._address = (self._address[0], self._kept.getsockname()[1])
            self._open()

    def stop(self) -> None:
        """Ends it for good and gives the port back."""
        with self._lock:
            self._close()
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def open(self) -> None:
        """Serves again on the same port; nothing if it does, or was never started."""
        with self._lock:
            self._open()

    def close(self, seconds: float | None = None) -> None:
        """Connections break, new ones are refused; for good or for so many seconds."""
        with self._lock:
            self._close()
            if seconds is not None and self._kept is not None:
                self._timer = threading.Timer(seconds, self.open)
                self._timer.daemon = True
                self._timer.start()

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._kept is None or self._server is not None:
            return
        bound = _listen(*self._address)
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level=logging.CRITICAL,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([bound],), name="emulator", daemon=True)
        thread.start()
        while not server.ready.wait(0.1):
            if not thread.is_alive():
                raise UsageError(f"the server on port {self.port} did not start")
        self._server, self._thread = server, thread

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server is not None and self._thread is not None:
            self._server.request_stop()
            self._thread.join()
            self._server = self._thread = None


def _bind(host: str, port: int) -> socket.socket:
    """A socket that holds the address and does not listen."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise UsageError(f"no such address: {host}: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _bind_error(host, port, error) from None
    return bound


def _listen(host: str, port: int) -> socket.socket:
    bound = _bind(host, port)
    try:
        bound.listen(256)
    except OSError as error:
        bound.close()
        raise _bind_error(host, port, error) from None
    return bound


def _bind_error(host: str, port: int, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host or --port 0"
    )

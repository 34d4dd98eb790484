"""uvicorn in a thread: it starts and stops within milliseconds, and gives each request access to its connection."""

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

#: Seconds after which an idle connection is closed.
_KEEP_ALIVE = 600

#: Seconds that answers in progress get when the server stops.
_GRACE = 0.2


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Puts the connection into the scope's state, where the faults find it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Waits for an event, instead of checking ten times per second whether to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def request_stop(self) -> None:
        """Make the loop end, if it has not. Thread-safe."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        """Serve until `request_stop` is called."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.ready.set()
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close listeners and connections; abort requests that take longer than the grace period."""
        for server in self.servers:
            for listening in server.sockets:
                self._loop.remove_reader(listening)
        for _ in range(3):
            # An accepted socket becomes a connection within three iterations of the loop; after that it can be closed here.
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
            # A late operation has no connection any longer: it ends with the server.
            for task in list(self.server_state.tasks):
                task.cancel()
        await asyncio.sleep(0)


class Listener:
    """One listening address and the thread that serves it. Thread-safe, except from the serving thread.

    From the first start on, the port stays bound, even while it is closed. Clients are refused then, and none of them gets the
    port as its own source port, with which it would connect to itself.
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
        """Return the port; the real one after the first start."""
        return self._address[1]

    @property
    def is_open(self) -> bool:
        """Return whether clients are served."""
        return self._server is not None

    def start(self, app: ASGIApp) -> None:
        """Bind the address, unless it is bound already, and serve `app`. Raises UsageError if the address can't be bound."""
        with self._lock:
            self._app = app
            if self._kept is None:
                self._kept = _bind(*self._address)
                self._address = (self._address[0], self._kept.getsockname()[1])
            self._open()

    def stop(self) -> None:
        """Stop for good, and release the port."""
        with self._lock:
            self._close()
            if self._kept is not None:
                self._kept.close()
                self._kept = None

    def open(self) -> None:
        """Serve again on the same port. Does nothing if it is open, or was never started."""
        with self._lock:
            self._open()

    def close(self, seconds: float | None = None) -> None:
        """Break connections and refuse new ones, until `open` is called or `seconds` have passed."""
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
    """Return a socket that holds the address without listening."""
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
        f"can't listen on {host} port {port}: {error.strerror}; choose another with --host or --port 0"
    )

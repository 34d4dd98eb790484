"""uvicorn in a thread: starts and stops in milliseconds, and shows each request its connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from jobfs.errors import UsageError

from .app import App

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
        """Makes the loop end; from any thread."""
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
    """One listening address and the thread that serves it."""

    def __init__(self, app: App, host: str, port: int) -> None:
        self._app = app
        self._address = (host, port)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port, real once it was started."""
        return self._address[1]

    def start(self) -> None:
        """Binds and serves; UsageError if the address can't be had. The port stays the same from then on."""
        bound = _bind(*self._address)
        self._address = (self._address[0], bound.getsockname()[1])
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
        self._server = _Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([bound],), name="emulator", daemon=True
        )
        self._thread.start()
        while not self._server.ready.wait(0.1):
            if not self._thread.is_alive():
                raise UsageError(f"the server on port {self.port} did not start")

    def stop(self) -> None:
        """Ends it; clients see the connection break, then refused connections."""
        if self._server is not None and self._thread is not None:
            self._server.request_stop()
            self._thread.join()
            self._server = self._thread = None


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise UsageError(f"no such address: {host}: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(256)
    except OSError as error:
        bound.close()
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host or --port 0"
        ) from None
    return bound


__all__: list[Any] = ["Listener"]

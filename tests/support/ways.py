"""Ways to the local server as they are outside: TLS with an authority of one's own, and a proxy that wants a password."""

from __future__ import annotations

import asyncio
import base64
import ssl
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

#: The name in the certificate beside 127.0.0.1; only the proxy knows where it is.
NAME = "api.example.test"
_HEAD = 4096


class Certificates(NamedTuple):
    """An authority, and a server's certificate from it."""

    authority: Path
    certificate: Path
    key: Path


def certificates(directory: Path) -> Certificates:
    """Made by openssl, good for a day."""
    made = Certificates(*(directory / name for name in ("authority.pem", "server.pem", "server.key")))
    new = [
        "openssl",
        "req",
        "-x509",
        "-days",
        "1",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    authority = ["-keyout", directory / "authority.key", "-out", made.authority, "-subj", "/CN=authority"]
    subprocess.run(
        [*new, *authority, "-addext", "keyUsage=critical,keyCertSign"], check=True, capture_output=True
    )
    server = ["-CA", made.authority, "-CAkey", directory / "authority.key", "-keyout", made.key]
    names = ["-subj", "/CN=server", "-addext", f"subjectAltName=DNS:{NAME},IP:127.0.0.1"]
    own = ["-out", made.certificate, "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*new, *server, *names, *own], check=True, capture_output=True)
    return made


class Way:
    """A listener on 127.0.0.1 that passes on all bytes, in both directions.

    With a TLS context it ends TLS. With a `password` ("user:password") it is a proxy: all that it is asked is CONNECT, and
    whatever name is asked for, it connects to `port`. `opened` and `refused` count connections; `seen` is what has come.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, password: str = "") -> None:
        self._there = port
        self._tls = tls
        self._wanted = "basic " + base64.b64encode(password.encode()).decode() if password else ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self.port = 0
        self.opened = self.refused = 0
        self.seen = bytearray()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.open()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def open(self) -> None:
        """Listens, on the same port as before."""

        async def start() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

        self._do(start())

    def cut(self) -> None:
        """Closes all connections, without a word to those who have them."""

        async def cut() -> None:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._do(cut())

    @contextmanager
    def down(self) -> Iterator[None]:
        """Connections are closed and refused for a while."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        try:
            yield
        finally:
            self.open()

    def close(self) -> None:
        """Ends it for good."""
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._wanted or await self._connects(reader, writer):
                self.opened += 1
                there = await asyncio.open_connection("127.0.0.1", self._there)
                with suppress(ConnectionError, ssl.SSLError):
                    await self._pass_on(reader, writer, *there)
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connects(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """True if it is asked to CONNECT, with the password."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        given = [line for line in head.lower().splitlines() if line.startswith("proxy-authorization:")]
        if not head.startswith("CONNECT ") or given != [f"proxy-authorization: {self._wanted.lower()}"]:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return False
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return True

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        to: asyncio.StreamWriter,
    ) -> None:
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: bool) -> None:
            while data := await source.read(1 << 16):
                if note:
                    self.seen += data[:_HEAD]
                sink.write(data)
                await sink.drain()

        ways = [asyncio.create_task(pump(reader, to, True)), asyncio.create_task(pump(there, writer, False))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to.transport.abort()


@contextmanager
def way(port: int, tls: Certificates | None = None, password: str = "") -> Iterator[Way]:
    """A way that is gone afterwards."""
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key)
    made = Way(port, context, password)
    try:
        yield made
    finally:
        made.close()

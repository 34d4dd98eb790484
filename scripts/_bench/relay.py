"""A TCP relay that makes loopback as slow as a network.

It delays what arrives by half a round trip in each direction. A new connection costs one round trip more, like the TCP handshake.
Run it as a process: it prints its port, answers each line on stdin (a JSON object that may set `rtt` in seconds) with its counts
so far, and ends with stdin. A request is counted where bytes from a client begin with an HTTP request line.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import deque
from dataclasses import asdict, dataclass, field

#: The maximum number of bytes in transit in one direction of one connection; beyond it the sender must wait.
_WINDOW = 16 << 20

_REQUEST_LINE = re.compile(rb"[A-Z]+ [^ \r\n]+ HTTP/1\.[01]\r\n")


@dataclass
class Counts:
    """The traffic since the start: connections, HTTP requests, bytes to the server and from it."""

    connections: int = 0
    requests: int = 0
    up: int = 0
    down: int = 0


@dataclass
class Line:
    """The network: its round trip in seconds, and its traffic."""

    rtt: float = 0.0
    counts: Counts = field(default_factory=Counts)


class _Way:
    """One direction of one connection: bytes, each piece with the time at which it is due; None is the end."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._under_way = 0
        self._timer: asyncio.TimerHandle | None = None
        self.open_at = self._loop.time()
        self.source: asyncio.Transport | None = None
        self.target: asyncio.Transport | None = None
        self.blocked = False

    def feed(self, data: bytes | None) -> None:
        """Accept what the source has just sent."""
        due = max(self._loop.time(), self.open_at) + self._line.rtt / 2
        self._queue.append((due, data))
        self._under_way += len(data or b"")
        if self._under_way > _WINDOW and self.source is not None:
            self.source.pause_reading()
        self.deliver()

    def deliver(self) -> None:
        """Deliver what is due, and set a timer for the rest."""
        if self.target is None or self.blocked:
            return
        now = self._loop.time()
        while self._queue and self._queue[0][0] <= now and not self.blocked:
            self._pass_on(self._queue.popleft()[1])
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._queue[0][0], self.deliver) if self._queue else None

    def _pass_on(self, data: bytes | None) -> None:
        assert self.target is not None
        if data is None:
            self.target.close()
            return
        self.target.write(data)
        before, self._under_way = self._under_way, self._under_way - len(data)
        if before > _WINDOW >= self._under_way and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()


class _Side(asyncio.Protocol):
    """One end of a connection: what it receives goes into `outgoing`; `incoming` writes to it."""

    def __init__(self, outgoing: _Way, incoming: _Way) -> None:
        self._outgoing, self._incoming = outgoing, incoming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._outgoing.source = self._incoming.target = transport
        self._incoming.deliver()

    def data_received(self, data: bytes) -> None:
        self._outgoing.feed(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._outgoing.feed(None)

    def pause_writing(self) -> None:
        self._incoming.blocked = True

    def resume_writing(self) -> None:
        self._incoming.blocked = False
        self._incoming.deliver()


class _Client(_Side):
    """The end that connected to the relay."""

    def __init__(self, line: Line, port: int) -> None:
        super().__init__(_Way(line), _Way(line))
        self._line, self._port = line, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._line.counts.connections += 1
        # SYN and SYN-ACK: the client may send after one round trip, the server after half of one.
        self._outgoing.open_at += self._line.rtt
        self._incoming.open_at += self._line.rtt / 2
        super().connection_made(transport)
        self._connecting = asyncio.ensure_future(self._connect(transport))

    async def _connect(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(
                lambda: _Upstream(self._line, self._incoming, self._outgoing), "127.0.0.1", self._port
            )
        except OSError:
            transport.close()

    def data_received(self, data: bytes) -> None:
        counts = self._line.counts
        counts.up += len(data)
        if _REQUEST_LINE.match(data):
            counts.requests += 1
        super().data_received(data)


class _Upstream(_Side):
    """The end towards the server."""

    def __init__(self, line: Line, outgoing: _Way, incoming: _Way) -> None:
        super().__init__(outgoing, incoming)
        self._line = line

    def data_received(self, data: bytes) -> None:
        self._line.counts.down += len(data)
        super().data_received(data)


async def serve(port: int, rtt: float) -> None:
    """Relay to `port` until stdin ends."""
    line = Line(rtt)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(line, port), "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while command := await reader.readline():
        line.rtt = json.loads(command).get("rtt", line.rtt)
        print(json.dumps(asdict(line.counts)), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))

"""One request and its answer: what a handler receives, what it returns, and how the answer is sent or damaged on purpose."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from .behaviour import Behaviour
from .faults import BEFORE, Faults, Rule
from .log import Entry
from .wire import error_json
from .workspace import Workspace

_JSON = (b"content-type", b"application/json")

#: Bytes of a download that are read and sent at once.
CHUNK = 256 * 1024

#: The maximum number of pieces per second with a limited bandwidth. Connections take turns: a small answer waits for one piece of
#: each other connection, not for everything that they must send.
_PER_SECOND = 200

#: Seconds between checks whether a client has disconnected from which nothing is read; and seconds after which such a connection
#: is closed anyway, because the end of the stream may be behind unread bytes.
_LOOK, _SILENCE = 0.1, 300


class InjectedFault(Exception):  # noqa: N818
    """A fault with a path pattern was picked before the operation."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.kind)
        self.rule = rule


@dataclass(slots=True)
class Answer:
    """A status, headers, and a body in memory. Without headers of its own, a body is JSON."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.body and not self.headers:
            self.headers.append(_JSON)

    @property
    def length(self) -> int:
        """Return the length of the body in bytes."""
        return len(self.body)

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the body in pieces of at most `size` bytes; one empty piece if it is empty."""
        for offset in range(0, max(self.length, 1), size):
            yield self.body[offset : offset + size]

    def pad_or_cut(self, by: int) -> None:
        """Make the body `by` bytes longer, or shorter if negative; an empty body becomes longer in any case."""
        body = self.body
        self.body = body[:by] if -len(body) <= by < 0 else body + bytes(abs(by))

    def close(self) -> None:
        """Release nothing: the body is in memory."""


class FileAnswer(Answer):
    """An answer whose body is a range of an open file; closes the descriptor."""

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], fd: int, start: int, end: int
    ) -> None:
        super().__init__(status, b"", headers)
        self._fd, self._start, self._end = fd, start, end

    @property
    def length(self) -> int:
        """Return the length of the range in bytes."""
        return self._end - self._start

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the range in pieces of at most `size` bytes; one empty piece if it is empty."""
        for offset in range(self._start, max(self._end, self._start + 1), size):
            wanted = min(size, self._end - offset)
            yield os.pread(self._fd, wanted, offset).ljust(wanted, b"\0")

    def pad_or_cut(self, by: int) -> None:
        """Make the range longer, with zeros, or shorter; see `Answer.pad_or_cut`."""
        self._end += by if by >= -self.length else abs(by)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def error_answer(status: int, reason: Any) -> Answer:
    """Return an answer with the reference's error body."""
    return Answer(status, error_json(status, reason))


class Throttle:
    """Spreads bytes over time: everything sent in one direction shares a limited number of bytes per second."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def wait_for_bytes(self, size: int, rate: int) -> None:
        """Wait until `size` more bytes have passed at `rate` bytes per second; not at all if `rate` is 0."""
        piece = max(rate // _PER_SECOND, 1)
        while rate > 0 and size > 0:
            now = asyncio.get_running_loop().time()
            # A piece may be late by its own duration: an overlong sleep is made up for.
            self._free_at = max(now - piece / rate, self._free_at) + min(size, piece) / rate
            size -= piece
            await asyncio.sleep(self._free_at - now)


class Bandwidth:
    """The network that all connections share: the two directions do not slow each other."""

    def __init__(self) -> None:
        self.up = Throttle()
        self.down = Throttle()


class Exchange:
    """One request in progress: its parts for the handler, and its connection for the faults."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        entry: Entry,
        faults: Faults,
        behaviour: Behaviour,
        line: Bandwidth,
    ) -> None:
        self.request = Request(scope, receive)
        self.entry = entry
        self.behaviour = behaviour
        self.workspace: Workspace
        self.item_id = ""
        self.rule: Rule | None = None
        self._transport: asyncio.Transport = scope["state"]["transport"]
        self._receive = receive
        self._send = send
        self._faults = faults
        self._line = line
        self._ended = False

    async def wait_latency(self) -> None:
        """Wait for half of the latency: called once before and once after the operation."""
        if self.behaviour.latency:
            await asyncio.sleep(self.behaviour.latency / 2000)

    async def wait_for_head(self) -> None:
        """Wait as long as the request's head takes to arrive."""
        await self.wait_latency()
        await self._line.up.wait_for_bytes(
            _head_size(self.request.scope["headers"]), self.behaviour.bandwidth
        )

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it arrives. Raises ConnectionResetError if the client disconnects."""
        while True:
            if self._ended:
                return
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            self._ended = not message.get("more_body", False)
            piece = message.get("body", b"")
            if piece:
                await self._line.up.wait_for_bytes(len(piece), self.behaviour.bandwidth)
                yield piece

    async def drain(self) -> None:
        """Read and discard the rest of the request's body."""
        async for _ in self.body():
            pass

    async def hang(self) -> None:
        """Read nothing and send nothing until the client disconnects, at most five minutes; then close the connection."""
        # asyncio does not notice the end of a connection that it does not read from.
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        for _ in range(int(_SILENCE / _LOOK)):
            if self._transport.is_closing() or poll.poll(0):
                break
            await asyncio.sleep(_LOOK)
        self._transport.abort()

    async def apply_path_fault(self, path: str) -> None:
        """Apply late, slow and path faults. Handlers call this right before their work, with the path that it affects.

        Raises InjectedFault for a fault that replaces the work.
        """
        self.entry.target = path
        if self.rule is None:
            self.rule = self._faults.pick_rule(self.entry.operation, self.entry.method, path)
            if self.rule is None:
                return
            self.entry.fault = self.rule.kind
            if self.rule.kind in BEFORE:
                raise InjectedFault(self.rule)
        if self.rule.kind == "late":
            self.drop()
        if self.rule.kind in ("late", "slow"):
            await asyncio.sleep(self.rule.delay)

    def drop(self) -> None:
        """Drop the connection; what has not been sent yet is lost."""
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, answer: Answer, cut: float | None = None) -> None:
        """Send the answer; with `cut`, send only this fraction of its body, then end the connection."""
        length = answer.length
        headers = [*answer.headers, (b"content-length", str(length).encode())]
        rate, line = self.behaviour.bandwidth, self._line.down
        await line.wait_for_bytes(_head_size(headers), rate)
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        left = length if cut is None else int(length * cut)
        for piece in answer.chunks(min(CHUNK, max(rate // _PER_SECOND, 1024)) if rate else CHUNK):
            piece = piece[:left]
            left -= len(piece)
            await line.wait_for_bytes(len(piece), rate)
            more = cut is not None or left > 0
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
            if left == 0:
                break
        if cut is not None:
            self._transport.close()
            await self.wait_closed()


def _head_size(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the approximate length of a head in bytes."""
    return sum(len(name) + len(value) + 4 for name, value in headers)

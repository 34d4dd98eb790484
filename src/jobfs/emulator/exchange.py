"""One request and its answer: what a handler gets, what it gives, and how it is sent or broken on purpose."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from .behaviour import Behaviour
from .faults import BEFORE, Faults, Rule
from .log import Entry
from .wire import error_json
from .workspace import Workspace

JSON = (b"content-type", b"application/json")

#: How much of a download is read and sent at once.
CHUNK = 256 * 1024

#: How many pieces a second a capped line carries at most.
_PER_SECOND = 50


class Struck(Exception):  # noqa: N818
    """A fault that is about the path struck before the work."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.kind)
        self.rule = rule


@dataclass(slots=True)
class Answer:
    """A status, headers and a body in memory."""

    status: int = 200
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=lambda: [JSON])

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return len(self.body)

    def chunks(self, size: int) -> Iterator[bytes]:
        """The body in pieces of at most `size` bytes; one empty piece if it is empty."""
        for offset in range(0, max(self.length, 1), size):
            yield self.body[offset : offset + size]

    def close(self) -> None:
        """Nothing to give back."""


class FileAnswer(Answer):
    """An answer whose body is a stretch of an open file; closes the descriptor."""

    def __init__(
        self, status: int, headers: list[tuple[bytes, bytes]], fd: int, start: int, end: int
    ) -> None:
        super().__init__(status, b"", headers)
        self._fd, self._start, self._end = fd, start, end

    @property
    def length(self) -> int:
        """Bytes of the stretch."""
        return self._end - self._start

    def chunks(self, size: int) -> Iterator[bytes]:
        """The stretch in pieces of at most `size` bytes; one empty piece if it is empty."""
        for offset in range(self._start, max(self._end, self._start + 1), size):
            yield os.pread(self._fd, min(size, self._end - offset), offset)

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def error(status: int, reason: Any) -> Answer:
    """An answer with the reference's error body."""
    return Answer(status, error_json(status, reason))


class Throttle:
    """Spreads bytes over time: all bodies of one direction share one line of so many bytes a second."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def take(self, size: int, rate: int) -> None:
        """Waits until `size` more bytes may have passed; no wait if `rate` is 0."""
        if rate <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(now, self._free_at) + size / rate
        await asyncio.sleep(self._free_at - now)


class Exchange:
    """One request on its way: its parts for the handler, and the connection for the faults."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, entry: Entry, faults: Faults, behaviour: Behaviour
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
        self._ended = False

    async def body(self, throttle: Throttle) -> AsyncIterator[bytes]:
        """The request's body as it arrives; ConnectionResetError if the client goes away."""
        while True:
            if self._ended:
                return
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            self._ended = not message.get("more_body", False)
            piece = message.get("body", b"")
            if piece:
                await throttle.take(len(piece), self.behaviour.bandwidth)
                yield piece

    async def drain(self) -> None:
        """Reads what is left of the request's body and forgets it."""
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            self._ended = not message.get("more_body", False)

    async def aim(self, path: str) -> None:
        """Called right before the work with the path it is about: the place of late, slow and path faults."""
        self.entry.target = path
        if self.rule is None:
            self.rule = self._faults.pick(self.entry.operation, self.entry.method, path)
            if self.rule is None:
                return
            self.entry.fault = self.rule.kind
            if self.rule.kind in BEFORE:
                raise Struck(self.rule)
        if self.rule.kind == "late":
            self.drop()
        if self.rule.kind in ("late", "slow"):
            await asyncio.sleep(self.rule.delay)

    def drop(self) -> None:
        """Drops the connection; what was not sent yet is lost."""
        self._transport.abort()

    async def gone(self) -> None:
        """Waits until the connection has ended."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, answer: Answer, throttle: Throttle, cut: bool = False) -> None:
        """Sends the answer; with `cut` only the first half of its body, then the connection ends."""
        length = answer.length
        headers = [*answer.headers, (b"content-length", str(length).encode())]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        left = length // 2 if cut else length
        rate = self.behaviour.bandwidth
        for piece in answer.chunks(min(CHUNK, max(rate // _PER_SECOND, 1024)) if rate else CHUNK):
            piece = piece[:left]
            left -= len(piece)
            await throttle.take(len(piece), rate)
            await self._send({"type": "http.response.body", "body": piece, "more_body": cut or left > 0})
            if left == 0:
                break
        if cut:
            self._transport.close()
            await self.gone()

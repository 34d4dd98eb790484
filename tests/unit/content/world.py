"""A world for these tests: a client double with every misbehaviour that a test asks for, and files opened over it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tests.support.clocks import Clock

from jobfs.api.client import Download
from jobfs.api.connection_queue import ConnectionQueue
from jobfs.api.deadline import current_deadline
from jobfs.content import ContentHandle, ContentStore
from jobfs.content.timing import Timing
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.nodes import Item, Kind

UPDATED = "2024-05-01T12:00:00.125Z"
LATER = "2024-05-01T12:00:09.500Z"
UPDATED_NS = 1_714_564_800_125_000_000
#: The time on the clock of a store, which stands still.
NOW = 1_800_000_000
STILL = Timing(Clock(NOW))


def item_of(
    size: int | None, item_id: str = "a" * 24, updated_at: str = UPDATED, ns: int = UPDATED_NS
) -> Item:
    return Item(id=item_id, kind=Kind.FILE, path="file.bin", updated_at=updated_at, updated_ns=ns, size=size)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at every offset."""
    return random.Random(seed).randbytes(size)


class Lock:
    """A reentrant lock; a test may act just before an acquisition, where another thread could."""

    def __init__(self) -> None:
        self._lock, self._left, self._action = threading.RLock(), 0, threading.Event().set

    def before(self, number: int, action: Callable[[], Any]) -> None:
        """Call `action` before the acquisition of this number from now on, once."""
        self._left, self._action = number, action

    def acquire(self, *arguments: Any) -> bool:
        self._left -= 1
        if self._left == 0:
            self._action()
        return self._lock.acquire(*arguments)

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


@dataclass(eq=False)
class Request:
    """One download as the server saw it; `sent` grows while the body is read."""

    start: int
    end: int | None
    sent: int = 0
    finished: bool = False


@dataclass
class FakeClient:
    """Misbehaviours: see the fields. `gate` set to a number lets that many chunks pass, None lets all pass."""

    data: bytes
    updated_at: str = UPDATED
    chunk: int = 64 * 1024
    ranges: bool = True
    says_length: bool = True
    lie: int = 0  # added to every total said
    short: int = 0  # so many bytes are not sent
    breaks: list[int] = field(default_factory=list)  # each body breaks after so many bytes, one a request
    errors: list[ApiError] = field(default_factory=list)  # raised instead of an answer, one a request
    cap: int | None = None  # longest answer to a range
    max_connections: int = 4
    server_time_offset: float = 0.0
    shown_size: int | None = None  # what `get` says instead of the truth
    has_sizes: bool = True  # `get` returns a size
    gone: bool = False
    looking: threading.Event | None = None  # set once `get` may answer
    unanswered: int = 0  # so many times it can't be asked
    gate: int | None = None
    broken: int = 0  # how often all bodies on their way were broken off
    holds: dict[int, int] = field(default_factory=dict)  # number of a request: bytes after which it waits
    requests: list[Request] = field(default_factory=list)
    gets: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    connections: ConnectionQueue = field(default_factory=lambda: ConnectionQueue(4))

    def get(self, item_id: str) -> Item:
        self.gets += 1
        assert self.looking is None or self.looking.wait(20)
        if self.unanswered:
            self.unanswered -= 1
            raise UnavailableError("down")
        if self.gone:
            raise NotFoundError("gone")
        size = (self.shown_size or len(self.data)) if self.has_sizes else None
        return replace(item_of(size, item_id), updated_at=self.updated_at)

    def update(self, item_id: str, *, path: str, kind: object = None) -> Item:
        """A move that is a change, as far as `updatedAt` goes."""
        self.updated_at = f"after the move to {path}"
        return self.get(item_id)

    @contextlib.contextmanager
    def download(
        self, item_id: str, start: int = 0, end: int | None = None, *, size: int | None = None
    ) -> Iterator[Download]:
        with self.changed:
            request, data = Request(start, end), self.data
            self.requests.append(request)
            self.changed.notify_all()
            if self.errors:
                raise self.errors.pop(0)
            if self.gone:
                raise NotFoundError("gone")
            limit = self.breaks.pop(0) if self.breaks else len(data)
        ranged = self.ranges and (start > 0 or end is not None)
        if not ranged:
            start, end = 0, None
        elif self.cap is not None:
            end = min(end or len(data), start + self.cap)
        body = data[start:end][: len(data) - self.short]
        total = len(data) + self.lie if self.says_length else None
        try:
            yield Download(
                start, len(body) if ranged else total, total, lambda: self._chunks(request, body, limit)
            )
        finally:
            with self.changed:
                request.finished = True
                self.changed.notify_all()

    def _chunks(self, request: Request, body: bytes, limit: int) -> Iterator[bytes]:
        since, deadline, broken = time.monotonic(), current_deadline(), self.broken
        for position in range(0, len(body), self.chunk):
            piece = body[position : min(position + self.chunk, max(limit, position))]
            with self.changed:
                assert self.changed.wait_for(lambda: self._may_pass(request) or self.broken != broken, 30)
                if self.broken != broken:
                    raise UnavailableError("the connection was broken off")
                if self.gate is not None:
                    self.gate -= 1
                request.sent += len(piece)
                self.changed.notify_all()
            if piece:
                if deadline is not None:
                    deadline.extend(time.monotonic() - since)
                yield piece
                since = time.monotonic()
            if position + self.chunk > limit and position + len(piece) < len(body):
                raise UnavailableError("the connection broke")

    def let_look(self) -> None:
        """Let `get` reply."""
        assert self.looking is not None
        self.looking.set()

    def abort_requests(self) -> None:
        """Every body on its way breaks."""
        with self.changed:
            self.broken += 1
            self.changed.notify_all()

    def open_gate(self, chunks: int | None = None) -> None:
        """Let `chunks` more chunks pass, or all."""
        with self.changed:
            self.gate = None if chunks is None else (self.gate or 0) + chunks
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait for a condition of requests and their bodies."""
        with self.changed:
            assert self.changed.wait_for(condition, 20), "the condition never came true"

    def release(self, number: int) -> None:
        """Release a held request."""
        with self.changed:
            del self.holds[number]
            self.changed.notify_all()

    def _may_pass(self, request: Request) -> bool:
        held = self.holds.get(self.requests.index(request))
        return (self.gate is None or self.gate > 0) and (held is None or request.sent < held)


class Opened(NamedTuple):
    """An open file, and all behind it."""

    client: FakeClient
    store: ContentStore
    item: Item
    handle: ContentHandle

    def is_right(self, offset: int, size: int = 4096) -> bool:
        """Read there; False if other bytes come than those that the server has."""
        return self.handle.read(offset, size) == self.client.data[offset : offset + size]


MakeStore = Callable[..., ContentStore]
Open = Callable[..., Opened]

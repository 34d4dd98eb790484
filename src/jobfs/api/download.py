"""The download of a file's bytes, whole or a range (GET …/items/{id}/download; vfs/semantics.md 3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx

from jobfs.api.bodies import PLAIN, decoded
from jobfs.api.failures import Call, MismatchError
from jobfs.api.wire import Answer
from jobfs.errors import ApiError, UnavailableError

_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE | re.ASCII)
_UNSATISFIED = re.compile(r"bytes\s+\*/(\d+)", re.IGNORECASE | re.ASCII)

#: Bytes are wanted as they are, not compressed on the way; some gateways do it all the same.
IDENTITY = ("Accept-Encoding", "identity")
RANGE_UNSATISFIABLE = frozenset({416})


@dataclass(frozen=True)
class Download:
    """One body on its way.

    `start`: the first byte that comes, 0 if the server ignored the range. `length`: bytes of this body, None
    if the server did not say. `total`: bytes of the whole file, None if not known. `explain` turns what goes wrong while the
    body is read into an error of errors.py.
    """

    call: Call
    headers: httpx.Headers
    stream: Iterable[bytes]
    explain: Callable[[Call, httpx.HTTPError | MismatchError], ApiError]
    start: int
    length: int | None
    total: int | None

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive; raises UnavailableError if the body breaks off or is too short."""
        came = 0
        try:
            for chunk in decoded(self.stream, self.headers) if self.length != 0 else ():
                came += len(chunk)
                if self.length is not None and came > self.length:
                    raise MismatchError(f"a body longer than the {self.length} bytes promised")
                yield chunk
        except (httpx.HTTPError, MismatchError) as exc:
            raise self.explain(self.call, exc) from None
        if self.length is not None and came < self.length:
            told = f"{self.call}: the body ended after {came} of {self.length} bytes"
            raise UnavailableError(told, endpoint=self.call.endpoint)


def extent(answer: Answer, start: int) -> tuple[int, int | None, int | None]:
    """`start`, `length` and `total` of what answers a request for the bytes from `start` on; raises MismatchError."""
    headers, status = answer.headers, answer.status
    told = headers.get("content-range", "").strip()
    if status in RANGE_UNSATISFIABLE:
        match = _UNSATISFIED.fullmatch(told)
        return start, 0, int(match[1]) if match else None
    compressed = headers.get("content-encoding", "").strip().lower() not in PLAIN
    if compressed and status != httpx.codes.OK:
        raise MismatchError(f"a compressed body with status {status}")
    value = headers.get("content-length", "")
    # Of a compressed body it counts what is on the wire.
    length = int(value) if re.fullmatch(r"\d{1,18}", value, re.ASCII) and not compressed else None
    if status == httpx.codes.OK:
        return 0, length, length
    if status != httpx.codes.PARTIAL_CONTENT:
        raise MismatchError(f"a file with status {status}")
    sent, total = _range(told, start)
    if length not in (None, sent):
        raise MismatchError(f"206 with {told!r} and {length} bytes")
    return start, sent, total


def _range(told: str, start: int) -> tuple[int, int | None]:
    """How many bytes a range has, and the whole file if that is told; raises MismatchError if it is not one from `start`."""
    match = _RANGE.fullmatch(told)
    if match is None:
        raise MismatchError(f"206 with Content-Range {told!r}")
    first, last = int(match[1]), int(match[2])
    if first != start or last < first:
        raise MismatchError(f"206 with {told!r} to a request from byte {start}")
    return last - first + 1, None if match[3] == "*" else int(match[3])

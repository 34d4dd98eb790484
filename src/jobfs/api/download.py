"""The download of a file's bytes, whole or a range (GET …/items/{id}/download; semantics.md section 3)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import httpx

from jobfs.api.bodies import coding_of, decoded
from jobfs.api.deadline import current
from jobfs.api.failures import Call, MismatchError
from jobfs.errors import ApiError, UnavailableError

_RANGE = re.compile(r"bytes\s+(\d+)-(\d+)/(\d+|\*)", re.IGNORECASE | re.ASCII)
_UNSATISFIED = re.compile(r"bytes\s+\*/(\d+)", re.IGNORECASE | re.ASCII)

#: Bytes are wanted as they are, not compressed on the way; some gateways do it all the same.
IDENTITY = ("Accept-Encoding", "identity")
RANGE_UNSATISFIABLE = 416

#: Turns what goes wrong while a body is read into an error of errors.py.
Explain = Callable[[Call, httpx.HTTPError | MismatchError], ApiError]


class Download:
    """One body on its way; a context manager that gives the connection back.

    `start`: the first byte that comes, 0 if the server ignored the range. `length`: bytes of this body, None
    if the server did not say. `total`: bytes of the whole file, None if not known.
    """

    def __init__(
        self,
        call: Call,
        response: httpx.Response | None,
        explain: Explain,
        *,
        start: int,
        length: int | None,
        total: int | None,
    ) -> None:
        self.start = start
        self.length = length
        self.total = total
        self._call = call
        self._response = response
        self._explain = explain

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive; raises UnavailableError if the body breaks off or is too short."""
        if self._response is None or self.length == 0:
            return
        came, since, deadline = 0, time.monotonic(), current()
        try:
            for chunk in decoded(self._response.iter_raw(), coding_of(self._response.headers)):
                came += len(chunk)
                if deadline is not None:
                    deadline.extend(time.monotonic() - since)
                if self.length is not None and came > self.length:
                    raise MismatchError(f"a body longer than the {self.length} bytes promised")
                yield chunk
                since = time.monotonic()
        except (httpx.HTTPError, MismatchError) as exc:
            raise self._explain(self._call, exc) from None
        if self.length is not None and came < self.length:
            told = f"{self._call}: the body ended after {came} of {self.length} bytes"
            raise UnavailableError(told, endpoint=self._call.endpoint)

    def close(self) -> None:
        """Give the connection back; one that still has bytes to come is closed."""
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Download:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def range_header(start: int, end: int | None) -> tuple[str, str] | None:
    """The Range header for the bytes from `start` to before `end`; None for the whole file."""
    if start == 0 and end is None:
        return None
    return "Range", f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"


def open_download(call: Call, response: httpx.Response, start: int, explain: Explain) -> Download:
    """The download that an answer to a request for the bytes from `start` begins; raises MismatchError."""
    headers = response.headers
    length = _content_length(headers)
    if response.status_code == RANGE_UNSATISFIABLE:
        match = _UNSATISFIED.fullmatch(headers.get("content-range", "").strip())
        total = int(match[1]) if match else None
        return Download(call, response, explain, start=start, length=0, total=total)
    coding = coding_of(headers)
    if coding and (coding not in ("gzip", "x-gzip") or response.status_code != httpx.codes.OK):
        raise MismatchError(f"content encoding {coding!r}, which was not asked for")
    if coding:
        length = None  # it counts what is on the wire
    if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        raise MismatchError(f"a file with status {response.status_code}")
    if response.status_code == httpx.codes.OK:
        return Download(call, response, explain, start=0, length=length, total=length)
    sent, total = _content_range(headers, start, length)
    return Download(call, response, explain, start=start, length=sent, total=total)


def _content_range(headers: httpx.Headers, start: int, length: int | None) -> tuple[int, int | None]:
    """How many bytes a range has, and the whole file if that is told; raises MismatchError if it is not one from `start`."""
    match = _RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        raise MismatchError(f"206 with Content-Range {headers.get('content-range')!r}")
    first, last = int(match[1]), int(match[2])
    if first != start or last < first or length not in (None, last - first + 1):
        raise MismatchError(f"206 with {match[0]!r} to a request from byte {start}")
    return last - first + 1, None if match[3] == "*" else int(match[3])


def _content_length(headers: httpx.Headers) -> int | None:
    value = headers.get("content-length", "")
    return int(value) if re.fullmatch(r"\d{1,18}", value, re.ASCII) else None

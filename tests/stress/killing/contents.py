"""What is written under load: unique contents that say whose they are, so that a torn or mixed one is recognized."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

_MARK = re.compile(rb"\[([\w-]+ #\d+) \d+\]")


@dataclass(frozen=True, eq=False, slots=True)
class Content:
    """One whole content of a file, or one of the two constants below; its first `before` bytes were there already.

    `made` in monotonic seconds.
    """

    name: str
    data: bytes = field(default=b"", repr=False)
    by_job: bool = False
    made: float = 0.0
    before: int = 0

    @property
    def is_torn(self) -> bool:
        return self.name.startswith("TORN")

    @property
    def added(self) -> bytes:
        """Return what its writer has added to what was there."""
        return self.data[self.before :]

    def __str__(self) -> str:
        return self.name


#: What stands at a path where nothing is, and where a directory is.
ABSENT = Content("nothing")
DIRECTORY = Content("a directory")


class Contents:
    """Every content that anybody has written, or tried to, in one lane. Safe from any thread."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._known: dict[bytes, Content] = {}
        self._appended: dict[bytes, Content] = {}
        self._torn: dict[bytes, Content] = {}
        self._count = 0

    def make(self, author: str, size: int, *, after: bytes = b"", by_job: bool = False) -> Content:
        """A new content of about `size` bytes, which is one line; or one with such a line added to what was there."""
        with self._lock:
            self._count += 1
            name = f"{author} #{self._count}"
            body = f"[{name} {size}] {self._random.randbytes(size // 2).hex()} ".encode()
            data = after + body + hashlib.sha256(body).hexdigest().encode() + b"\n"
            content = Content(name + " (appended)" * bool(after), data, by_job, time.monotonic(), len(after))
            self._known[hashlib.sha256(data).digest()] = content
            if after:
                self._appended[hashlib.sha256(content.added).digest()] = content
            return content

    def adopt(self, data: bytes) -> Content:
        """A content that was there from the start and was not made here."""
        content = Content("as it was", data)
        self._known[hashlib.sha256(data).digest()] = content
        return content

    def of(self, data: bytes) -> Content | None:
        """The content that these bytes are; None if nobody ever wrote exactly these.

        What was appended to another whole content than its writer had read is that content of its writer's too.
        """
        known = self._known.get(hashlib.sha256(data).digest())
        if known is None:
            for mark in reversed([mark.start() for mark in _MARK.finditer(data)][1:]):
                appended = self._appended.get(hashlib.sha256(data[mark:]).digest())
                if appended is not None and self.of(data[:mark]) is not None:
                    known = self._known[hashlib.sha256(data).digest()] = appended
                    break
        return known

    def known(self, data: bytes) -> Content:
        """The content that these bytes are, or one that stands for the torn bytes."""
        marks = ", ".join(mark.decode() for mark in _MARK.findall(data)) or "nobody"
        name = f"TORN: {len(data)} bytes with the marks of {marks}" if data else "TORN: empty"
        return self.of(data) or self._torn.setdefault(data, Content(name, data))

    def tree(self, found: Mapping[str, bytes | None]) -> dict[str, Content]:
        """The contents of a tree, whose directories have None."""
        return {path: DIRECTORY if data is None else self.known(data) for path, data in found.items()}

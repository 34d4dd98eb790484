"""What is done to a file at random, and what a byte buffer says must come of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: The file never grows beyond this, in bytes: several requests of the kernel, and not a multiple of a page.
LARGEST = 300_001

#: How often each operation comes, relative to the others.
WEIGHTS = {
    "write": 22, "read": 18, "mapread": 8, "mapwrite": 10, "truncate": 8, "punch": 6, "append": 6, "whole": 5,
    "size": 5, "reopen": 6, "fsync": 3, "rename": 2, "drain": 0.5, "remount": 0.15,
}  # fmt: skip

#: Those before which the file is closed.
CLOSED = ("drain", "remount")
#: Those after which the server is compared too.
ON_THE_SERVER = ("fsync", *CLOSED)


@dataclass(frozen=True)
class Operation:
    """One operation. It means something on a file of any size, so that any part of a sequence can be replayed.

    `offset`, `size`: bytes (for truncate: `size` is the new length). `fill`: what the written bytes are made from.
    """

    kind: str
    offset: int = 0
    size: int = 0
    fill: int = 0

    def __str__(self) -> str:
        shown = {"write": "at", "read": "at", "mapread": "at", "mapwrite": "at", "punch": "at"}
        if self.kind in shown:
            filled = f" of {self.fill}" if self.kind in ("write", "mapwrite") else ""
            return f"{self.kind} {self.size} bytes{filled} at {self.offset}"
        if self.kind == "append":
            return f"append {self.size} bytes of {self.fill}"
        return f"truncate to {self.size}" if self.kind == "truncate" else self.kind

    def as_json(self) -> dict[str, Any]:
        """For the process that carries it out."""
        return asdict(self)


def pattern(fill: int, size: int) -> bytes:
    """`size` bytes that are recognizable wherever they turn up; never zero."""
    unit = bytes((fill * 31 + step * 7) % 255 + 1 for step in range(255))
    return (unit * (size // len(unit) + 1))[:size]


def digest(data: bytes | bytearray) -> str:
    """How many bytes, and which."""
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:16]}"


def generate(seed: int, count: int) -> list[Operation]:
    """`count` operations; the same for the same seed."""
    chance = random.Random(seed)
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    return [_one(chance, chance.choices(kinds, weights)[0]) for _ in range(count)]


def _one(chance: random.Random, kind: str) -> Operation:
    offset = _place(chance, LARGEST)
    size = min(_place(chance, 70_000), LARGEST - offset)
    return Operation(kind, offset, size, chance.randrange(255))


def _place(chance: random.Random, limit: int) -> int:
    """A number up to `limit`: near the edges of pages and of the kernel's requests more often than chance has it."""
    if chance.random() < 0.3:
        edge = chance.choice([0, 4096, 8192, 65_536, 131_072, 262_144])
        return max(0, min(limit, edge + chance.randint(-2, 2)))
    return chance.randrange(limit) if chance.random() < 0.7 else chance.randrange(min(limit, 5000))


class Buffer:
    """The file as it must be."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def apply(self, operation: Operation) -> str:
        """Carry out an operation; what the file must answer to it."""
        method = getattr(self, f"_{operation.kind}", None)
        return "done" if method is None else str(method(operation))

    def _write(self, operation: Operation) -> str:
        end = operation.offset + operation.size
        if operation.size and len(self.bytes) < operation.offset:
            self.bytes.extend(bytes(operation.offset - len(self.bytes)))
        self.bytes[operation.offset : end] = pattern(operation.fill, operation.size)
        return str(operation.size)

    def _append(self, operation: Operation) -> str:
        size = max(0, min(operation.size, LARGEST - len(self.bytes)))
        self.bytes += pattern(operation.fill, size)
        return str(size)

    def _read(self, operation: Operation) -> str:
        return digest(self.bytes[operation.offset : operation.offset + operation.size])

    _mapread = _read

    def _whole(self, _: Operation) -> str:
        return digest(self.bytes)

    def _size(self, _: Operation) -> str:
        return str(len(self.bytes))

    def _mapwrite(self, operation: Operation) -> str:
        size = max(0, min(operation.size, len(self.bytes) - operation.offset))
        self.bytes[operation.offset : operation.offset + size] = pattern(operation.fill, size)
        return str(size)

    def _punch(self, operation: Operation) -> str:
        size = max(0, min(operation.size, len(self.bytes) - operation.offset))
        self.bytes[operation.offset : operation.offset + size] = bytes(size)
        return str(size)

    def _truncate(self, operation: Operation) -> str:
        del self.bytes[operation.size :]
        self.bytes.extend(bytes(operation.size - len(self.bytes)))
        return str(operation.size)


def expected(operations: Sequence[Operation]) -> Iterator[tuple[Operation, str, bytes]]:
    """Each operation of a sequence, with its answer and the file's bytes after it, those of a new file at first."""
    buffer = Buffer()
    for operation in operations:
        answer = buffer.apply(operation)
        yield operation, answer, bytes(buffer.bytes) if operation.kind in ON_THE_SERVER else b""

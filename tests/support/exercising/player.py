"""The program that carries operations out on a file: JSON lines in (path and operations), JSON lines out (answers).

A process of its own: a memory map holds Python's interpreter lock while the mount brings a page.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
from typing import Any

from .operations import LARGEST, digest, pattern


class Player:
    """One open file, and what is done to it; it may get other names."""

    def __init__(self, path: str) -> None:
        self._first = path
        self._names = [path, f"{path}-renamed"]
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Close the file, and give it its first name again."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
        if self.path != self._first:
            os.rename(self.path, self._first)

    @property
    def path(self) -> str:
        """Its present name."""
        return self._names[0]

    def play(self, operation: dict[str, Any]) -> str:
        """Carry one out; its answer, or the name of its error."""
        method = getattr(self, f"_{operation['kind']}")
        try:
            return str(method(operation["offset"], operation["size"], operation["fill"]))
        except Exception as error:
            return repr(error)

    def _write(self, offset: int, size: int, fill: int) -> int:
        return os.pwrite(self._handle, pattern(fill, size), offset) if size else 0

    def _append(self, offset: int, size: int, fill: int) -> int:
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            return os.write(handle, pattern(fill, max(0, min(size, LARGEST - os.fstat(handle).st_size))))
        finally:
            os.close(handle)

    def _read(self, offset: int, size: int, fill: int) -> str:
        data = b""
        while piece := os.pread(self._handle, size - len(data), offset + len(data)):
            data += piece
        return digest(data)

    def _whole(self, offset: int, size: int, fill: int) -> str:
        with open(self.path, "rb") as file:
            return digest(file.read())

    def _size(self, offset: int, size: int, fill: int) -> str:
        by_name, by_handle = os.stat(self.path).st_size, os.fstat(self._handle).st_size
        return str(by_name) if by_name == by_handle else f"{by_name} by name, {by_handle} by handle"

    def _mapped(self, offset: int, size: int) -> int:
        return max(0, min(size, os.fstat(self._handle).st_size - offset))

    def _mapread(self, offset: int, size: int, fill: int) -> str:
        size = self._mapped(offset, size)
        if not size:
            return digest(b"")
        with mmap.mmap(self._handle, 0, prot=mmap.PROT_READ) as area:
            return digest(area[offset : offset + size])

    def _mapwrite(self, offset: int, size: int, fill: int) -> int:
        size = self._mapped(offset, size)
        if size:
            with mmap.mmap(self._handle, 0) as area:
                area[offset : offset + size] = pattern(fill, size)
        return size

    def _punch(self, offset: int, size: int, fill: int) -> int:
        size = self._mapped(offset, size)
        return os.pwrite(self._handle, bytes(size), offset) if size else 0

    def _truncate(self, offset: int, size: int, fill: int) -> int:
        if fill % 2:
            os.ftruncate(self._handle, size)
        else:
            os.truncate(self.path, size)
        return size

    def _fsync(self, offset: int, size: int, fill: int) -> str:
        os.fsync(self._handle)
        return "done"

    def _reopen(self, offset: int, size: int, fill: int) -> str:
        os.close(self._handle)
        self._handle = -1
        self._handle = os.open(self.path, os.O_RDWR)
        return "done"

    def _rename(self, offset: int, size: int, fill: int) -> str:
        os.rename(self._names[0], self._names[1])
        self._names.reverse()
        return "done"


def main() -> None:
    """Answers a JSON line for a JSON line, until stdin ends: a path opens a file, `close` closes it."""
    player: Player | None = None
    name = ""
    for line in sys.stdin:
        request = json.loads(line)
        answers: list[str] = []
        try:
            player = player or Player(request["path"])
            for operation in request["operations"]:
                answers.append(player.play(operation))
            name = player.path
            if request["close"]:
                closed, player = player, None
                closed.close()
        except OSError as error:
            answers.append(f"open or close: {error!r}")
        sys.stdout.write(json.dumps({"answers": answers, "name": name}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

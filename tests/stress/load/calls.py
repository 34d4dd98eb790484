"""System calls of the programs in a workload: how long each took, and which failed with what."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Failed calls that need the local disk only, after which a workload is not worth going on with.
_ENOUGH = 20


class GaveUpError(AssertionError):
    """So many calls failed that the workload was ended early."""


class RefusedError(Exception):
    """A call failed, which is noted; what would have followed from it is left out."""


class Calls:
    """Safe from any thread. `failed` counts calls that need nothing but the local disk; `told` those that may fail when the
    server can't be asked; both by name and errno. `slowest` in seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.failed: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.slowest = 0.0
        self.done = 0

    @contextmanager
    def of(self, name: str, *, local: bool = True) -> Iterator[None]:
        """One call, or a few that belong together. Raises RefusedError if it fails; GaveUpError after too many of them."""
        began = time.monotonic()
        try:
            yield
        except OSError as error:
            with self._lock:
                failures = self.failed if local else self.told
                failures[f"{name}: {errno.errorcode.get(error.errno or 0, error)}"] += 1
                enough = self.failed.total() >= _ENOUGH
            if enough:
                raise GaveUpError(f"given up: {listed(self.failed)}") from error
            raise RefusedError(name) from error
        finally:
            seconds = time.monotonic() - began
            with self._lock:
                self.done += 1
                self.slowest = max(self.slowest, seconds)

    def save(self, path: Path, data: bytes, *, local: bool = True, sync: bool = True) -> None:
        """Opens, writes, closes; with an fsync if `sync`, which may fail for the server's sake if not `local`. Raises as `of`."""
        with self.of("open"):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            with self.of("write"):
                write_all(handle, data)
            tolerated = () if local else (RefusedError,)
            if sync:
                with suppress(*tolerated), self.of("fsync", local=local):
                    os.fsync(handle)
        except BaseException:
            os.close(handle)
            raise
        with self.of("close"):
            os.close(handle)


def listed(failures: Counter[str]) -> str:
    """Failures in words."""
    return ", ".join(f"{count} × {name}" for name, count in failures.most_common()) or "none"


def write_all(handle: int, data: bytes) -> None:
    """Writes all of it, in as many calls as that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]

"""Caches that no mount will read again: those of state directories that are gone, and the one that a job's mounts once shared."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

#: Most files that are removed at one start; the next one goes on with the rest.
_MOST = 50_000
_OWNER = "owner"
_MOUNT_ID = re.compile(r"[0-9a-f]{12}")
_DIRECTORY = re.compile(r"[0-9a-f]{2}|tmp(-[0-9a-f]{16})?")
_FILE = re.compile(r"[0-9a-f]{48}|[0-9]+\.part")


def claim(directory: Path, owner: Path) -> None:
    """Note that the cache in `directory` goes when the state directory `owner` is gone. Raises OSError."""
    (directory / _OWNER).write_bytes(os.fsencode(owner.absolute()))


def remove_abandoned(directory: Path, stop: Callable[[], bool]) -> None:
    """Remove abandoned caches beside `directory`, which is <cache directory>/<job>/<mount id>, and in other jobs.

    Files that are none of a cache's are left alone. Ends early once `stop()` is true.
    """
    caches = [directory.parent]
    for owner in directory.parents[1].glob(f"*/*/{_OWNER}"):
        with contextlib.suppress(OSError):
            if _MOUNT_ID.fullmatch(owner.parent.name) and not os.path.lexists(owner.read_bytes()):
                caches.append(owner.parent)
    for path in itertools.islice(itertools.chain.from_iterable(map(_contents, caches)), _MOST):
        if stop():
            return
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()


def _contents(cache: Path) -> Iterator[Path]:
    """The files of a cache, each directory after what is in it, the cache itself last."""
    for inner in cache.glob("*"):
        if _DIRECTORY.fullmatch(inner.name) and not inner.is_symlink():
            yield from (path for path in inner.glob("*") if _FILE.fullmatch(path.name))
            yield inner
    yield from (cache / "boot", cache / _OWNER, cache)

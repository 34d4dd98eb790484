"""The API key: where it comes from, and how it is kept out of every text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from jobfs.errors import UsageError

#: Returns the key to send now, fit for a header; called for every request, by any thread.
KeySource = Callable[[], str]

_SHORTEST_SECRET = 6
_KEY = re.compile(r"[!-~]+")


def _check_key(key: str) -> str:
    """The key without surrounding white space; raises UsageError if it could not stand in a header."""
    key = key.strip()
    if not key:
        raise UsageError("the API key is empty: set PERSTACK_API_KEY or give --api-key-file")
    if not _KEY.fullmatch(key):
        raise UsageError("the API key contains characters that no key has: check where it was copied from")
    return key


def fixed_key(key: str) -> KeySource:
    """A source that always gives this key; raises UsageError at once if it can't be one."""
    checked = _check_key(key)
    return lambda: checked


class FileKey:
    """A key in a file, read again when the file changes (vfs/semantics.md 6).

    Once there was a key, a file that is missing or empty for a moment (it is being replaced) leaves that in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: The key, and what the file was when it was read; one value, for any thread to replace.
        self._read: tuple[str, tuple[int, int, int]] | None = None

    def __call__(self) -> str:
        """The key as the file has it now; raises UsageError if there never was one."""
        read = self._read
        try:
            stat = os.stat(self._path)
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if read is None or read[1] != stamp:
                self._read = read = (_check_key(self._path.read_text(encoding="utf-8")), stamp)
        except (OSError, ValueError, UsageError) as exc:
            if read is None:
                told = (
                    f"can't read the API key from {self._path}: {getattr(exc, 'strerror', 'it is not text')}"
                )
                if isinstance(exc, UsageError):
                    told = f"no API key in {self._path}: write the key into that file, and nothing else"
                raise UsageError(told) from None
        return read[0]


def scrub(text: str, key: str) -> str:
    """`text` without the key, should a server or a library have echoed it."""
    # A shorter one is no secret, and replacing it would garble ordinary words.
    return text.replace(key, "***") if len(key) >= _SHORTEST_SECRET else text

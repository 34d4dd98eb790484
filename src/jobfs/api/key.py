"""The API key: where it comes from, and how it is kept out of every text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jobfs.errors import UsageError

#: Returns the key to send now, fit for a header; called for every request, by any thread.
KeySource = Callable[[], str]

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
    """A source that always gives this key; raises UsageError at once if it can't be a key."""
    checked = _check_key(key)
    return lambda: checked


class FileKey:
    """A key in a file, read for every request (vfs/semantics.md 6).

    Once there was a key, a file that is missing or empty for a moment (it is being replaced) leaves that key in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = ""

    def __call__(self) -> str:
        """The key as the file has it now; raises UsageError if there never was one."""
        try:
            self._key = _check_key(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, UsageError) as exc:
            if not self._key:
                why = getattr(exc, "strerror", None) or "write the key into that file, and nothing else"
                raise UsageError(f"no API key in {self._path}: {why}") from None
        return self._key


def scrub(text: str, key: str) -> str:
    """`text` without the key, should a server or a library have echoed it."""
    return text.replace(key, "***")

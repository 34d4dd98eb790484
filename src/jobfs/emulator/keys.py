"""The API key of a server that is started from the command line."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NamedTuple

from jobfs.errors import UsageError

_FILE = "api-key"


class FoundKey(NamedTuple):
    """A key, and its source in words for the first line of output: the key itself is shown only if it is new."""

    key: str
    source: str
    keep_in: Path | None = None


def find_key(directory: Path, key: str | None, key_file: Path | None) -> FoundKey:
    """Return the key that was given, else the one in the key file, else the directory's own, else a new one to be kept there.

    Raises UsageError if both are given, or if a file can't be read or is empty. Writes nothing.
    """
    if key is not None and key_file is not None:
        raise UsageError("give --key or --key-file, not both")
    if key is not None:
        return FoundKey(key, "as given")
    path = key_file or directory / _FILE
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        if key_file is None and isinstance(error, FileNotFoundError | NotADirectoryError):
            new = secrets.token_urlsafe(24)
            return FoundKey(new, f"{new}, new, kept in {path}", path)
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"can't read the key file {path}: {reason}") from None
    if not text:
        raise UsageError(f"the key file {path} is empty; put the key there")
    return FoundKey(text, f"from {path}")


def keep_key(found: FoundKey) -> None:
    """Write a new key where the next start finds it, readable only by its owner."""
    if found.keep_in is not None:
        fd = os.open(found.keep_in, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(found.key + "\n")

"""Logging of a mount: to stderr, in the background to a file that rotates; never with the API key."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from jobfs.api import KeySource
from jobfs.cli.repeats import counted
from jobfs.cli.screen import shown
from jobfs.errors import JobfsError

#: Bytes of a log file; one older file is kept.
_LIMIT = 10 << 20


class _Formatter(logging.Formatter):
    """Escapes what would steer a terminal, and takes the key out of every record, should a library have put it there."""

    def __init__(self, key: KeySource) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._key = key

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = shown(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        text = shown(super().format(record), keep="\n")  # of tracebacks
        try:
            return text.replace(self._key(), "***")
        except JobfsError:
            return text


class _ToTerminal(logging.StreamHandler[TextIO]):
    """The log of a process in the foreground, or that is about to begin."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._repeats = counted(self)

    def close(self) -> None:
        self._repeats.tell()
        super().close()


class _ToFile(logging.handlers.RotatingFileHandler):
    """The log of a process in the background: what is printed goes there too, whichever file it is by now."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LIMIT, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._repeats = counted(self)
        self._take_output()

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return os.fdopen(handle, "a", encoding=self.encoding, errors=self.errors)

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        super().doRollover()
        self._take_output()

    def close(self) -> None:
        self._repeats.tell()
        super().close()

    def _take_output(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        assert self.stream is not None
        for handle in (1, 2):
            os.dup2(self.stream.fileno(), handle)


def set_up(level: str, key: KeySource) -> None:
    """Log records of `level` and above to stderr; other libraries' only from warning on."""
    handler = _ToTerminal()
    handler.setFormatter(_Formatter(key))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("jobfs").setLevel(level.upper())


def keep_in(path: Path) -> None:
    """From now on what is logged or printed goes to `path`, which only this user can read; one older file is kept."""
    handler = _ToFile(path)
    root = logging.getLogger()
    for before in root.handlers[:]:
        handler.setFormatter(before.formatter)
        root.removeHandler(before)
        before.close()
    root.addHandler(handler)

"""Logging of a mount: to stderr, which in the background is its log file; never with the API key."""

from __future__ import annotations

import logging
import sys

from jobfs.api import KeySource
from jobfs.errors import JobfsError


class _Formatter(logging.Formatter):
    """Takes the key out of every record, should a library have put it there."""

    def __init__(self, key: KeySource) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._key = key

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        try:
            return text.replace(self._key(), "***")
        except JobfsError:
            return text


def set_up(level: str, key: KeySource) -> None:
    """Log records of `level` and above; other libraries' only from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(key))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("jobfs").setLevel(level.upper())

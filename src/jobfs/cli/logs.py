"""Logging of a mount: to stderr, or in the background to a rotated file; in a unit, to the journal. Never with the API key."""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from jobfs.api.access import KeySource
from jobfs.cli.screen import escape_for_terminal, print_escaped
from jobfs.process import is_stderr_journal

#: The maximum size of a log file in bytes; one older file is kept.
_LIMIT = 10 << 20


def set_up_logging(level: str, key: KeySource, form: str = "text") -> None:
    """Log to stderr, as `text` or `json`: records of `level` and above, and from other libraries only warnings and errors."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(key) if form == "json" else _Formatter(key))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("jobfs").setLevel(level.upper())


def log_to_file(path: Path) -> bool:
    """Redirect what is logged or printed to `path`, which only this user can read; one older file is kept.

    Return False, and change nothing, if stderr is the journal.
    """
    if is_stderr_journal():
        return False
    handler = _ToFile(path)
    root = logging.getLogger()
    for old in root.handlers[:]:
        handler.setFormatter(old.formatter)
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    return True


def log_thread_crashes() -> None:
    """Log an exception that ends a thread, instead of printing it."""
    log = logging.getLogger("jobfs")
    threading.excepthook = lambda crash: log.error("a thread crashed", exc_info=crash.exc_value)


def warn_user(sentence: str) -> None:
    """Print a sentence on stderr; once there is a log, add it there as a warning at any level."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, _Formatter) for handler in root.handlers):
        root.handle(root.makeRecord("jobfs", logging.WARNING, __file__, 0, sentence, (), None))
    else:
        with contextlib.suppress(OSError):  # the terminal is gone: the mount keeps running
            print_escaped(f"jobfs: {sentence}", err=True)


# Forms


class _Formatter(logging.Formatter):
    """Escapes control characters for the terminal, and removes the key from every record, in case a library logged it."""

    def __init__(self, key: KeySource) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._key = key

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = escape_for_terminal(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return self.redact_key(escape_for_terminal(super().format(record), keep="\n"))  # of tracebacks

    def redact_key(self, text: str) -> str:
        """Return the text with `***` in place of the key."""
        return text.replace(self._key(), "***")


class _Json(_Formatter):
    """Formats a record as a JSON object on one line: time (ISO 8601, UTC), level, logger, message, exception.

    `exception` is null, or the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        trace = self.formatException(record.exc_info) if record.exc_info else None
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps(
            {
                "time": time.replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": self.redact_key(record.getMessage()),
                "exception": None if trace is None else self.redact_key(trace),
            }
        )


# Where records go


class _ToFile(logging.handlers.RotatingFileHandler):
    """The log file of a process in the background. What is printed goes there, too, even after a rotation."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LIMIT, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._redirect_output()

    def doRollover(self) -> None:  # noqa: N802 - the library's name
        super().doRollover()
        self._redirect_output()

    def _redirect_output(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        assert self.stream is not None
        for handle in (1, 2):
            os.dup2(self.stream.fileno(), handle)

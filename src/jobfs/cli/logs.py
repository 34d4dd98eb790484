"""Logging of a mount: to stderr, in the background to a file that rotates, as a unit to the journal; never with the API key."""

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

#: Bytes of a log file; one older file is kept.
_LIMIT = 10 << 20


def set_up_logging(level: str, key: KeySource, form: str = "text") -> None:
    """Log records of `level` and above to stderr, as `text` or `json`; other libraries' only from warning on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(key) if form == "json" else _Formatter(key))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("jobfs").setLevel(level.upper())


def log_to_file(path: Path) -> bool:
    """From now on everything logged or printed goes to `path`, which only this user can read; one older file is kept.

    False if it goes to the journal and stays there.
    """
    if is_stderr_journal():
        return False
    handler = _ToFile(path)
    root = logging.getLogger()
    for before in root.handlers[:]:
        handler.setFormatter(before.formatter)
        root.removeHandler(before)
        before.close()
    root.addHandler(handler)
    return True


def log_thread_crashes() -> None:
    """From now on an exception that ends a thread is logged, as everything else is, instead of printed."""
    log = logging.getLogger("jobfs")
    threading.excepthook = lambda crash: log.error("a thread has crashed", exc_info=crash.exc_value)


def warn_user(sentence: str) -> None:
    """Tell the user something on stderr; once there is a log, as a warning in it, whatever the level."""
    root = logging.getLogger()
    if any(isinstance(handler.formatter, _Formatter) for handler in root.handlers):
        root.handle(root.makeRecord("jobfs", logging.WARNING, __file__, 0, sentence, (), None))
    else:
        with contextlib.suppress(OSError):  # the terminal, or its reader, is gone: the mount goes on
            print_escaped(f"jobfs: {sentence}", err=True)


# Forms


class _Formatter(logging.Formatter):
    """Escapes characters that steer a terminal, and takes the key out of every record, should a library have put it there."""

    def __init__(self, key: KeySource) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._key = key

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = escape_for_terminal(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return self.redact_key(escape_for_terminal(super().format(record), keep="\n"))  # of tracebacks

    def redact_key(self, text: str) -> str:
        """The text with stars where the key was."""
        return text.replace(self._key(), "***")


class _Json(_Formatter):
    """An object a line: time (ISO 8601, UTC), level, logger, message, exception (null, or the traceback)."""

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


# Where it goes


class _ToFile(logging.handlers.RotatingFileHandler):
    """The log of a process in the background: what is printed goes there too, also after a rotation."""

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

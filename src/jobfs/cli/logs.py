"""Logging of a mount: to stderr, in the background to a file that rotates, as a unit to the journal; never with the API key.

It can be read during an outage: what repeats is logged once, and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import sys
import threading
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from jobfs.api import KeySource
from jobfs.cli.screen import shown, tell
from jobfs.errors import JobfsError
from jobfs.service import in_journal

#: Bytes of a log file; one older file is kept.
_LIMIT = 10 << 20

#: Seconds until repetitions are told, and a fact is logged again.
_EVERY = 60.0
#: Different lines of one message template in that time; more of them are one fact that repeats.
_MOST = 10

#: What the journal calls our levels (sd-daemon(3)), from the highest on.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def set_up(level: str, key: KeySource, form: str = "text") -> None:
    """Log records of `level` and above to stderr, as `text` or `json`; other libraries' only from warning on."""
    handler = _ToTerminal()
    handler.setFormatter(_formatter(key, form))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("jobfs").setLevel(level.upper())


def keep_in(path: Path) -> bool:
    """From now on what is logged or printed goes to `path`, which only this user can read; one older file is kept.

    False if it goes to the journal and stays there.
    """
    if in_journal():
        return False
    handler = _ToFile(path)
    root = logging.getLogger()
    for before in root.handlers[:]:
        handler.setFormatter(before.formatter)
        root.removeHandler(before)
        before.close()
    root.addHandler(handler)
    return True


def keep_crashes() -> None:
    """From now on what ends a thread by surprise is logged, as everything else is, instead of printed as it is."""

    def log(crash: threading.ExceptHookArgs) -> None:
        if crash.exc_value is not None and not issubclass(crash.exc_type, SystemExit):
            name = crash.thread.name if crash.thread is not None else "unknown"
            what = (crash.exc_type, crash.exc_value, crash.exc_traceback)
            logging.getLogger("jobfs").error("the thread %s has crashed", name, exc_info=what)

    threading.excepthook = log


def say(sentence: str) -> None:
    """Tell the user something on stderr; where that is a log of its own form, as a warning in it, whatever the level."""
    root = logging.getLogger()
    handler = next(iter(root.handlers), None)
    formatter = handler.formatter if handler is not None else None
    if isinstance(handler, _ToFile) or isinstance(formatter, _Json | _ForJournal):
        root.handle(root.makeRecord("jobfs", logging.WARNING, __file__, 0, sentence, (), None))
    else:
        with contextlib.suppress(OSError):  # the terminal, or who read along, is gone: the mount goes on
            tell(f"jobfs: {sentence}", err=True)


# Forms


def _formatter(key: KeySource, form: str) -> logging.Formatter:
    if not in_journal():
        return _Json(key) if form == "json" else _Formatter(key)
    return _ForJournal(_Json(key) if form == "json" else _Formatter(key, "%(name)s: %(message)s"))


class _Formatter(logging.Formatter):
    """Escapes what would steer a terminal, and takes the key out of every record, should a library have put it there."""

    def __init__(self, key: KeySource, form: str = "%(asctime)s %(levelname)s %(name)s: %(message)s") -> None:
        super().__init__(form)
        self._key = key

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = shown(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return self.without_key(shown(super().format(record), keep="\n"))  # of tracebacks

    def without_key(self, text: str) -> str:
        """The text with stars where the key was."""
        try:
            return text.replace(self._key(), "***")
        except JobfsError:
            return text


class _Json(_Formatter):
    """An object a line: time (ISO 8601, UTC), level, logger, message, count, exception (null, or the traceback).

    A record that stands for `count` others has the message of the last of them.
    """

    def format(self, record: logging.LogRecord) -> str:
        last, count = (record.last, record.count) if isinstance(record, _Told) else (record.getMessage(), 1)
        trace = self.formatException(record.exc_info) if record.exc_info else None
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps(
            {
                "time": time.replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": self.without_key(last),
                "count": count,
                "exception": None if trace is None else self.without_key(trace),
            }
        )


class _ForJournal(logging.Formatter):
    """What another formatter makes, with the priority before each line; the journal knows when it came, and from whom."""

    def __init__(self, text: logging.Formatter) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in self._text.format(record).split("\n"))


# Where it goes


class _ToTerminal(logging.StreamHandler[TextIO]):
    """The log of a process in the foreground, or that is about to begin."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self._repeats = Repeats(self)

    def close(self) -> None:
        self._repeats.tell()
        super().close()


class _ToFile(logging.handlers.RotatingFileHandler):
    """The log of a process in the background: what is printed goes there too, whichever file it is by now."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=_LIMIT, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._repeats = Repeats(self)
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


# What repeats


class _Told(logging.LogRecord):
    """The record that stands for `count` others, which were held back; `last`: the message of the last of them."""

    def __init__(self, last: logging.LogRecord, count: int, every: float) -> None:
        self.last, self.count = last.getMessage(), count
        words = (count, every, self.last)
        text = "%d more like this within %.0f s, the last one: %s"
        super().__init__(last.name, last.levelno, last.pathname, last.lineno, text, words, None)


class _Fact:
    """One message template in one logger: the lines of it that were logged, and the last that was not."""

    def __init__(self) -> None:
        self.lines: set[str] = set()
        self.held = 0
        self.last: logging.LogRecord | None = None


class Repeats(logging.Filter):
    """Lets each line through once in `every` seconds, and a few of each template; says how many it held back.

    What it held back is told once those seconds are over, and by `tell`. Debug records all pass: who asks for them
    wants them. Any thread may log.
    """

    def __init__(self, handler: logging.Handler, every: float = _EVERY) -> None:
        """A filter of `handler`, which has the lock, and emits the records that tell how many were held back."""
        super().__init__()
        assert handler.lock is not None
        self._handler, self._lock = handler, handler.lock
        self._every = every
        self._facts: dict[tuple[str, int, str], _Fact] = {}
        self._clock: threading.Timer | None = None
        handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be logged."""
        if record.levelno <= logging.DEBUG:
            return True
        try:
            line = record.getMessage()
        except Exception:
            return True  # the handler says what is wrong with it
        with self._lock:
            fact = self._facts.setdefault((record.name, record.levelno, str(record.msg)), _Fact())
            if self._clock is None:
                self._clock = threading.Timer(self._every, self.tell)
                self._clock.daemon = True
                self._clock.start()
            if line not in fact.lines and len(fact.lines) < _MOST:
                fact.lines.add(line)
                return True
            fact.held += 1
            fact.last = record
            return False

    def tell(self) -> None:
        """Log how many records were held back, and begin anew."""
        with self._lock:
            facts, self._facts = self._facts, {}
            clock, self._clock = self._clock, None
        if clock is not None:
            clock.cancel()
        for fact in facts.values():
            if fact.last is not None:
                with self._lock:
                    # Not `handle`, which would ask this filter again.
                    self._handler.emit(_Told(fact.last, fact.held, self._every))

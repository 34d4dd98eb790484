"""A log that can be read during an outage: what repeats is logged once, and counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds until repetitions are told, and a fact is logged again.
EVERY = 60.0
#: Different lines of one message template in that time; more of them are one fact that repeats.
_MOST = 10


class Told(logging.LogRecord):
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

    def __init__(self, handler: logging.Handler, every: float = EVERY) -> None:
        """`handler` emits the records that tell how many were held back, and has the lock; `every` in seconds."""
        super().__init__()
        self._handler = handler
        self._every = every
        self._facts: dict[tuple[str, int, str], _Fact] = {}
        self._clock: threading.Timer | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is to be logged."""
        if record.levelno <= logging.DEBUG:
            return True
        try:
            line = record.getMessage()
        except Exception:
            return True  # the handler says what is wrong with it
        with self._locked():
            fact = self._facts.setdefault((record.name, record.levelno, str(record.msg)), _Fact())
            self._start_clock()
            if line not in fact.lines and len(fact.lines) < _MOST:
                fact.lines.add(line)
                return True
            fact.held += 1
            fact.last = record
            return False

    def tell(self) -> None:
        """Log how many records were held back, and begin anew."""
        with self._locked():
            facts, self._facts = self._facts, {}
            clock, self._clock = self._clock, None
        if clock is not None:
            clock.cancel()
        for fact in facts.values():
            if fact.last is not None:
                with self._locked():
                    # Not `handle`, which would ask this filter again.
                    self._handler.emit(Told(fact.last, fact.held, self._every))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._handler.acquire()
        try:
            yield
        finally:
            self._handler.release()

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = threading.Timer(self._every, self.tell)
            self._clock.daemon = True
            self._clock.start()


def counted(handler: logging.Handler) -> Repeats:
    """Hold back in `handler` what repeats; `tell` of what is returned is to be called before it is closed."""
    repeats = Repeats(handler)
    handler.addFilter(repeats)
    return repeats

"""What repeats is logged once, and counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from jobfs.cli.repeats import Repeats


class Listening(logging.Handler):
    """Keeps what it is given."""

    def __init__(self, every: float = 3600.0) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.repeats = Repeats(self, every)
        self.addFilter(self.repeats)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    log = logging.getLogger("jobfs.of_repeats")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield log
    log.handlers.clear()


@pytest.fixture
def heard(log: logging.Logger) -> Iterator[Listening]:
    heard = Listening()
    log.addHandler(heard)
    yield heard
    heard.repeats.tell()


def test_an_equal_line_is_logged_once_and_counted(log: logging.Logger, heard: Listening) -> None:
    """semantics 6, bounds: an error that repeats is logged once and counted."""
    for _ in range(1000):
        log.error("the journal can't be written: %s", "disk full")
    assert heard.lines == ["ERROR the journal can't be written: disk full"]
    heard.repeats.tell()
    assert heard.lines[1:] == [
        "ERROR 999 more like this within 3600 s, the last one: the journal can't be written: disk full"
    ]


def test_of_many_lines_of_one_form_a_few_are_logged(log: logging.Logger, heard: Listening) -> None:
    for number in range(3000):
        log.warning("%s: tried again later", f"f{number}")
    assert heard.lines == [f"WARNING f{number}: tried again later" for number in range(10)]
    heard.repeats.tell()
    assert heard.lines[10:] == [
        "WARNING 2990 more like this within 3600 s, the last one: f2999: tried again later"
    ]


def test_facts_do_not_hold_each_other_back(log: logging.Logger, heard: Listening) -> None:
    for number in range(20):
        log.warning("a %d", number)
    log.warning("b")
    log.error("a %d", 20)
    assert heard.lines[-2:] == ["WARNING b", "ERROR a 20"]


def test_after_a_while_it_is_told_and_logged_again(log: logging.Logger) -> None:
    heard = Listening(every=0.05)
    log.addHandler(heard)
    for _ in range(3):
        log.error("no")
    clock = heard.repeats._clock
    assert clock is not None
    clock.join(20)
    log.error("no")
    assert heard.lines == ["ERROR no", "ERROR 2 more like this within 0 s, the last one: no", "ERROR no"]
    heard.repeats.tell()


def test_who_asks_for_debug_records_gets_all(log: logging.Logger, heard: Listening) -> None:
    for _ in range(100):
        log.debug("request")
    assert len(heard.lines) == 100
    heard.repeats.tell()
    assert len(heard.lines) == 100


def test_a_record_that_cannot_be_formatted_is_the_handlers_affair(
    log: logging.Logger, heard: Listening
) -> None:
    record = log.makeRecord(log.name, logging.ERROR, "file", 1, "%d", ("no number",), None)
    assert heard.repeats.filter(record) is True

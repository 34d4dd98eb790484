"""Logging never shows the key."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from jobfs.cli import logs
from jobfs.errors import UsageError


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("jobfs")
    before = root.handlers[:], root.level, ours.level
    root.handlers = []
    yield
    root.handlers, level, our_level = before
    root.setLevel(level)
    ours.setLevel(our_level)


def test_the_key_is_taken_out_of_every_record(capfd: pytest.CaptureFixture[str]) -> None:
    """semantics 6: the API key is never in a log."""
    logs.set_up("debug", lambda: "sk-secret")
    try:
        raise ValueError("header sk-secret refused")
    except ValueError as error:
        logging.getLogger("jobfs.api").debug("it failed: %s", error, exc_info=True)
        logging.getLogger("other").error("Bearer sk-secret")
    err = capfd.readouterr().err
    assert "it failed: header *** refused" in err
    assert "Bearer ***" in err
    assert "sk-secret" not in err


def test_a_key_that_cannot_be_read_does_not_stop_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    def broken() -> str:
        raise UsageError("no key")

    logs.set_up("info", broken)
    logging.getLogger("jobfs").info("still there")
    assert "still there" in capfd.readouterr().err


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_ours_and_others_are_quiet(level: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.set_up(level, lambda: "k")
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(logging.getLogger("jobfs.x"), name)(f"ours-{name}")
        getattr(logging.getLogger("httpx"), name)(f"theirs-{name}")
    err = capfd.readouterr().err
    assert [name for name in names if f"ours-{name}" in err] == names[names.index(level) :]
    assert [name for name in names if f"theirs-{name}" in err] == ["warning", "error"]

"""How far a drain is, where nobody watches a bar."""

from __future__ import annotations

import threading

import pytest

from jobfs.cli import progress
from jobfs.nodes import Sent


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """semantics 6: umount shows how far it is, in lines where there is no terminal; what is quick needs none."""
    now = 100.0
    monkeypatch.setattr("jobfs.cli.progress.time.monotonic", lambda: now)
    with progress.sending("sending") as tell:
        for done in range(12):
            tell(Sent(done, 12, done * 2000, 24_000))
            now += 1.0
        tell(Sent(0, 0))
    with progress.sending("sending") as tell:
        now += 6.0
        tell(Sent(0, 1))
    assert capfd.readouterr().err.splitlines() == [
        "jobfs: sending: 5 of 12 files, 10.0 kB of 24.0 kB, 2.0 kB/s",
        "jobfs: sending: 10 of 12 files, 20.0 kB of 24.0 kB, 2.0 kB/s",
        "jobfs: sending: 0 of 1 file",
    ]


def test_without_a_terminal_a_long_wait_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    heard = threading.Event()

    def tell(text: str, *, err: bool) -> None:
        said.append(text)
        heard.set()

    monkeypatch.setattr(progress, "tell", tell)
    with progress.waiting("waiting"):
        pass
    monkeypatch.setattr(progress, "_BETWEEN", 0.01)
    with progress.waiting("waiting"):
        assert heard.wait(20)
    assert said == ["jobfs: waiting"]

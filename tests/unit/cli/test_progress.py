"""How far a drain is, where nobody watches a bar."""

from __future__ import annotations

import pytest

from jobfs.cli import progress


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """semantics 6: umount shows how far it is, in lines where there is no terminal; what is quick needs none."""
    now = 100.0
    monkeypatch.setattr("jobfs.cli.progress.time.monotonic", lambda: now)
    with progress.sending("sending") as tell:
        for done in range(12):
            tell(done, 12)
            now += 1.0
        tell(0, 0)
    assert capfd.readouterr().err.splitlines() == ["jobfs: sending: 5 of 12", "jobfs: sending: 10 of 12"]

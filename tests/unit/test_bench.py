"""The report of `scripts/bench`, and its lab: what is started there ends with it."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import pytest

from _bench.lab import Lab
from _bench.measure import Outcome, Row, Sample
from _bench.table import line
from _bench.writing import absences


@pytest.mark.parametrize(("samples", "failures", "expected"), [
    ({"jobfs": [Sample(2.0, 7), Sample(4.0, 7), Sample(3.0, 7)]}, {},
     "a row at 50 ms: jobfs 3.00 s, req 7, bound 100 ms, x bound 30.00"),
    ({"floor": [Sample(1.0)]}, {"jobfs": "a wrong answer"}, "a row at 50 ms: not measured: a wrong answer"),
    ({}, {"rclone": "it is not installed"}, ""),
])  # fmt: skip
def test_a_row_is_one_line_with_the_measured_values(
    samples: dict[str, list[Sample]], failures: dict[str, str], expected: str
) -> None:
    assert line(Outcome(Row("row", "a row", lambda rtt: 2 * rtt), 0.05, samples, failures)) == expected


def test_the_name_is_absent_from_its_set_aside_to_its_promote() -> None:
    def move(target: str, time: float, status: int = 200) -> dict[str, object]:
        return {"operation": "update", "status": status, "target": target, "time": time, "ms": 1.0}

    hidden = "dir/.jobfs-0123456789ab-0123456789abcdef-aside-a-b.txt"
    log = [move(hidden, 2.0), move("dir/a-b.txt", 2.001, 400), move("dir/a-b.txt", 2.004), move("other", 3.0)]
    assert absences(log) == [pytest.approx(0.004)]


class Stopped(BaseException):
    """What the bench raises for a signal."""


@pytest.mark.parametrize("moment", ["starts", "ends"])
def test_a_signal_while_a_process_starts_or_ends_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Else it would write to the lab's directory while that is removed."""
    processes = []

    class Interrupted(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            processes.append(self)
            if moment == "starts":
                signal.raise_signal(signal.SIGTERM)

        def poll(self) -> int | None:
            if moment == "ends":
                signal.raise_signal(signal.SIGTERM)
            return super().poll()

    def stop(number: int, frame: object) -> None:
        raise Stopped

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(Stopped), Lab() as lab, lab.process(["sleep", "60"]):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    (process,) = processes
    assert process.returncode == -signal.SIGTERM
    assert not lab.root.exists()

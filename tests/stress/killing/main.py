"""`scripts/crash-test`: lanes in processes of their own, their tallies added up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console
from tests.stress.report import Row, Run, none, program

from .lane import Lane, Tally


@program("crash-test")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="How long.")
@click.option(
    "--lanes",
    type=click.IntRange(1, 64),
    default=os.cpu_count() or 2,
    help="How many at once.  [default: one a CPU]",
)
@click.option("--lane", type=int, hidden=True, help="Be that lane of a run.")
@click.option("--home", type=click.Path(path_type=Path), hidden=True, help="The run's directory.")
def main(run: Run, minutes: float, lanes: int, lane: int | None, home: Path | None) -> None:
    """Kill a mount under load with kill -9, again and again, and look for what was lost.

    If anything was, the directories of the round are kept, and told with what was promised and found.
    """
    if lane is not None and home is not None:
        _lane(run.seed, lane, home, minutes * 60)
    run.begin(f"{lanes} lanes, {minutes:g} minutes")
    began = time.monotonic()
    running = [_Running(run, number, minutes) for number in range(lanes)]
    broken: list[_Running] = []
    try:
        for one in running:
            one.thread.join()
        # An error of Python's is 1 too.
        broken = [one for one in running if one.process.wait() != bool(one.tally.violations)]
    finally:
        for one in running:
            one.end()
        total = sum((one.tally for one in running), Tally())
        run.kept = bool(total.violations)
        seconds = time.monotonic() - began
        run.add(_row(total, [one.number for one in broken], seconds))


class _Running:
    """A lane's process, listened to by a thread. It ends by itself when its standard input is closed."""

    def __init__(self, run: Run, number: int, minutes: float) -> None:
        self.number, self.tally = number, Tally()
        self._console: Console = run.console
        home = run.home / f"lane{number}"
        words = f"--seed {run.seed} --lane {number} --minutes {minutes} --home".split()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.stress", "crash-test", *words, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            tally = Tally(**json.loads(line))
            for text in tally.reports[len(self.tally.reports) :]:
                self._console.print(text, markup=False, highlight=False)
            self.tally = tally

    def end(self) -> None:
        """Tells it to end, and waits until it has put everything away."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.thread.join()


def _row(total: Tally, broken: list[int], seconds: float) -> Row:
    kills = total.kills + total.recovery_kills
    figures = {
        "rounds": total.rounds,
        "kills": kills,
        "of these during recovery": total.recovery_kills,
        "operations acknowledged": total.acknowledged,
        "MB acknowledged": f"{total.written / 1e6:.1f}",
        "violations": len(total.violations),
        "kills a minute": f"{kills / max(seconds, 1) * 60:.1f}",
    }
    checks = [none("violations", total.violations), none("lanes that ended otherwise", [*map(str, broken)])]
    return Row(
        "killed under load", "", {name: str(value) for name, value in figures.items()}, checks, seconds
    )


def _lane(seed: int, number: int, home: Path, seconds: float) -> NoReturn:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.monotonic() + seconds
    lane = Lane(home, seed * 1000 + number)

    def tell() -> None:
        print(json.dumps(asdict(lane.tally)), flush=True)

    try:
        lane.play(lambda: time.monotonic() > end, tell)
    finally:
        lane.close()
    sys.exit(1 if lane.tally.violations else 0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)

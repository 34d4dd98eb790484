"""`scripts/crash-test`: lanes in processes of their own, their tallies added up."""

from __future__ import annotations

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
from tests.stress.report import Row, Run, none, program

from .lane import Lane, Tally


@program("crash-test")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="How long.")
@click.option("--lanes", type=click.IntRange(1, 64), default=os.cpu_count() or 2, help="How many at once.")
@click.option(
    "--overlap", is_flag=True, help="Set-aside and promote of every save overlap, without a stagger."
)
@click.option("--lane", type=int, hidden=True, help="Be that lane of a run.")
@click.option("--home", type=click.Path(path_type=Path), hidden=True, help="The run's directory.")
def main(run: Run, minutes: float, lanes: int, overlap: bool, lane: int | None, home: Path | None) -> None:
    """Kill a mount under load with kill -9, again and again, and look for what was lost.

    If anything was, the directories of the round are kept, and told with what was promised and found.
    """
    if lane is not None and home is not None:
        _lane(run.seed, lane, home, minutes * 60, overlap=overlap)
    how = ["--overlap"] * overlap
    print(f"seed {run.seed}, {lanes} lanes, {minutes:g} minutes", *how, flush=True)
    began = time.monotonic()
    homes = [run.home / f"lane{number}" for number in range(lanes)]
    running = [_started(run.seed, number, minutes, home, *how) for number, home in enumerate(homes)]
    over = False
    try:
        for process in running:
            process.wait()
        over = True
    finally:
        for process in running:
            process.communicate()  # its standard input is closed: it ends, and has put everything away
        tallies = [_tally(home) for home in homes]
        total = sum(tallies, Tally())
        ends = [(bool(tally.violations), one.returncode) for tally, one in zip(tallies, running, strict=True)]
        # An error of Python's is 1 too.
        others = [f"lane {number}: {code}" for number, (wrong, code) in enumerate(ends) if code != wrong]
        run.kept = bool(total.violations)
        checks = [none("violations", total.violations), none("lanes that ended otherwise", others * over)]
        run.add(Row("killed under load", f"{total}; {run.home}", checks, time.monotonic() - began))


def _started(seed: int, number: int, minutes: float, home: Path, *how: str) -> subprocess.Popen[bytes]:
    words = f"crash-test --seed {seed} --lane {number} --minutes {minutes} --home".split()
    command = [sys.executable, "-m", "tests.stress", *words, str(home), *how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _tally(home: Path) -> Tally:
    told = home.with_suffix(".json")
    return Tally(**json.loads(told.read_text())) if told.exists() else Tally()


def _lane(seed: int, number: int, home: Path, seconds: float, *, overlap: bool) -> NoReturn:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.monotonic() + seconds
    lane = Lane(home, seed * 1000 + number, overlap=overlap)
    try:
        lane.play(lambda: time.monotonic() > end)
    finally:
        lane.close()
        home.with_suffix(".json").write_text(json.dumps(asdict(lane.tally)))
    sys.exit(1 if lane.tally.violations else 0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)

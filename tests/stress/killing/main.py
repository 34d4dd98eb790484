"""`scripts/crash-test`: lanes in processes of their own, their tallies added up."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click
from tests.stress.report import Row, Run, none, program

from .lane import Lane, Tally

_SPAWN = multiprocessing.get_context("spawn")


@program("crash-test")
@click.option("--minutes", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="How long.")
@click.option("--lanes", type=click.IntRange(1, 64), default=os.cpu_count() or 2, help="How many at once.")
@click.option(
    "--overlap", is_flag=True, help="Set-aside and promote of every save overlap, without a stagger."
)
def main(run: Run, minutes: float, lanes: int, overlap: bool) -> None:
    """Kill a mount under load with kill -9, or as if the power failed, again and again, and look for what was lost.

    If anything was, the directories of the round are kept, and told with what was promised and found.
    """
    print(f"seed {run.seed}, {lanes} lanes, {minutes:g} minutes", *["--overlap"] * overlap, flush=True)
    began = time.monotonic()
    homes = [run.home / f"lane{number}" for number in range(lanes)]
    running = [
        _SPAWN.Process(target=_play, args=(home, run.seed * 1000 + number, minutes * 60, overlap))
        for number, home in enumerate(homes)
    ]
    over = False
    try:
        for process in running:
            process.start()
        for process in running:
            process.join()
        over = True
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()  # it has put everything away
        tallies = [_tally(home) for home in homes]
        total = sum(tallies, Tally())
        ends = [(bool(tally.violations), one.exitcode) for tally, one in zip(tallies, running, strict=True)]
        # An error of Python's is 1 too.
        others = [f"lane {number}: {code}" for number, (wrong, code) in enumerate(ends) if code != wrong]
        run.kept = bool(total.violations)
        checks = [none("violations", total.violations), none("lanes that ended otherwise", others * over)]
        run.add(Row("killed under load", f"{total}; {run.home}", checks, time.monotonic() - began))


def _tally(home: Path) -> Tally:
    told = home.with_suffix(".json")
    return Tally(**json.loads(told.read_text())) if told.exists() else Tally()


def _play(home: Path, seed: int, seconds: float, overlap: bool) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    end = time.monotonic() + seconds
    lane = Lane(home, seed, overlap=overlap)
    try:
        lane.play(lambda: time.monotonic() > end)
    finally:
        lane.close()
        home.with_suffix(".json").write_text(json.dumps(asdict(lane.tally)))
    sys.exit(1 if lane.tally.violations else 0)

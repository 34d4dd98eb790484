"""`scripts/crash-test`: lanes in processes of their own, their tallies added up, one table at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from .lane import Lane
from .tally import Tally

_console = Console()
_INTERRUPTED = 130


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0.05), default=5.0, show_default=True, help="How long.")
@click.option(
    "--lanes",
    type=click.IntRange(1, 64),
    default=os.cpu_count() or 2,
    help="How many at once.  [default: one a CPU]",
)
@click.option("--seed", type=int, default=None, help="Where chance begins; printed when it is not given.")
@click.option("--lane", type=int, hidden=True, help="Be that lane of a run.")
@click.option("--home", type=click.Path(path_type=Path), hidden=True, help="The run's directory.")
def main(minutes: float, lanes: int, seed: int | None, lane: int | None, home: Path | None) -> None:
    """Kill a mount under load with kill -9, again and again, and look for what was lost.

    Exit code 1 if anything was: then the directories of the round are kept, and told with what was promised and found.
    """
    seed = secrets.randbelow(10**6) if seed is None else seed
    if lane is not None and home is not None:
        _lane(seed, lane, home, minutes * 60)
    with _directory() as place:
        sys.exit(_run(seed, lanes, place, minutes))


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="jobfs-crash-"))
    try:
        yield place
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()


def _run(seed: int, lanes: int, place: Path, minutes: float) -> int:
    _console.print(f"seed {seed}, {lanes} lanes, {minutes:g} minutes; Ctrl-C ends it before")
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    running = [_Running(seed, number, place, minutes) for number in range(lanes)]
    interrupted = False
    try:
        for one in running:
            one.thread.join()
    except KeyboardInterrupt:
        interrupted = True
        _console.print("ending")
    finally:
        for one in running:
            one.end()
    total = Tally()
    for one in running:
        total.add(one.tally)
    total.seconds = time.monotonic() - began
    _console.print(_table(total))
    broken = [one for one in running if one.process.returncode not in (0, 1) and not interrupted]
    for one in broken:
        _console.print(f"lane {one.number} ended with {one.process.returncode}", style="bold red")
    return 1 if total.violations or broken else _INTERRUPTED if interrupted else 0


class _Running:
    """A lane's process, listened to by a thread. It ends by itself when its standard input is closed."""

    def __init__(self, seed: int, number: int, place: Path, minutes: float) -> None:
        self.number, self.tally = number, Tally()
        words = ["--seed", seed, "--lane", number, "--home", place / f"lane{number}", "--minutes", minutes]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killing.main", *map(str, words)],
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
            tally = Tally.of_line(line)
            for text in tally.reports[len(self.tally.reports) :]:
                _console.print(text, markup=False, highlight=False)
            self.tally = tally

    def end(self) -> None:
        """Tells it to end, and waits until it has put everything away."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.thread.join()


def _table(total: Tally) -> Table:
    table = Table(title="Killed under load")
    figures = {
        "rounds": total.rounds,
        "kills": total.kills + total.recovery_kills,
        "of these during recovery": total.recovery_kills,
        "operations acknowledged": total.acknowledged,
        "MB acknowledged": f"{total.written / 1e6:.1f}",
        "violations": len(total.violations),
        "kills a minute": f"{(total.kills + total.recovery_kills) / max(total.seconds, 1) * 60:.1f}",
    }
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*map(str, figures.values()))
    return table


def _lane(seed: int, number: int, home: Path, seconds: float) -> NoReturn:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end = time.monotonic() + seconds
    lane = Lane(home, seed * 1000 + number)

    def tell() -> None:
        print(lane.tally.line(), flush=True)

    try:
        lane.play(lambda: time.monotonic() > end, tell)
    finally:
        lane.close()
    sys.exit(1 if lane.tally.violations else 0)


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

"""A program watches the whole mount while the job makes files by the thousand."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.stress.report import at_least, at_most, equal
from tests.support.waiting import eventually

from .bounds import Bounds
from .stage import Stage

#: Seconds that a look at another file may wait for the kernel's own work on events, on a machine with other work.
_WAIT = 0.2
#: Files that the job makes in one second, so that one listing shows many of them.
_AT_ONCE = 32


def watched(stage: Stage, files: int, directories: int, latency: float) -> None:
    """All of them are told, others' `stat` goes on, and while nobody watches nothing is asked."""
    kept = {f"d{number}/kept": b"kept" for number in range(directories)}
    stage.start(kept, latency=latency)
    events = stage.home / "events"
    with events.open("wb") as told:
        watcher = stage.begin(
            "inotifywait", "-m", "-r", "-q", "-e", "create", "--format", "%w%f", stage.path, stdout=told
        )
    eventually(lambda: stage.mounted.status()["watching"]["programs"], "the watcher is not seen")
    made = {f"d{number % directories}/new{number}": b"new" for number in range(files)}
    waits: list[float] = []
    with stage.doing(f"the job makes {files:,} files in {directories} directories, all watched", files):
        over = threading.Event()
        looking = threading.Thread(target=_look, args=(stage.path / "d0/kept", over, waits))
        looking.start()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(stage.server.write, made, made.values()):
                pass
        within = 30 + files / 200
        _until(lambda: len(_lines(events)) >= files, within)
        over.set()
        looking.join()
    lines = _lines(events)
    missed = {str(stage.path / path) for path in made} - set(lines)
    stage.check(
        equal("files that were made and not told", len(missed), 0),
        at_most("events", len(lines), 2 * files),
        at_least("looks at another file meanwhile", len(waits), 20),
        at_most("seconds of the 99th of 100 looks", statistics.quantiles(waits, n=100)[98], _WAIT),
    )
    watcher.kill()
    watcher.wait()
    _until(lambda: not stage.mounted.status()["watching"]["programs"], 10)
    stage.check(equal("watchers seen 10 s after it ended", stage.mounted.status()["watching"]["programs"], 0))
    stage.server.forget()
    time.sleep(5)  # nothing is waited for: nothing must happen
    stage.check(equal("lists while nobody watches", stage.server.requests("list"), 0))
    stage.expected.put_all(made)
    stage.finish(Bounds(files=files))


def _look(path: Path, over: threading.Event, waits: list[float]) -> None:
    while not over.wait(0.01):
        began = time.monotonic()
        os.stat(path)
        waits.append(time.monotonic() - began)


def _lines(events: Path) -> list[str]:
    return events.read_text(errors="replace").splitlines()


def _until(look: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not look() and time.monotonic() < end:
        time.sleep(0.1)

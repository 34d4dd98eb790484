"""Waiting: on a server that says nothing each call has one deadline, and holds up no other; on a slow line people have room."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tests.stress.report import at_least, at_most, equal, in_time

from jobfs.emulator import Rule

from .bounds import Bounds
from .expected import tree_of
from .rewriting import put_on_disk, source
from .stage import Stage

#: Seconds beyond --timeout within which every call ends.
_MARGIN = 5.0
#: Seconds for a look at what is known, on a machine with other work.
_AT_ONCE = 1.0

KINDS = ("rename", "fsync", "mkdir", "unlink", "rmdir", "rename over")
#: Beside bulk transfers a call may take so many times what it takes on a quiet line, and so many latencies more. Of these,
#: ten are what pieces of sixteen uploads stand for in the server's own queue.
_TIMES, _LATENCIES = 3, 20


def silent(stage: Stage, timeout: float, at_once: int, latency: float, on: str = "POST+DELETE") -> None:
    """Each kind of call alone, then many at once; `status` meanwhile; then SIGTERM. Nothing is said to what is `on`."""
    turns = len(KINDS) + at_once
    places = [f"{kind}{turn}".replace(" ", "-") for turn in range(turns) for kind in KINDS]
    there = {name: None if name.startswith("rmdir") else b"content" for name in places}
    stage.start(there, latency=latency, timeout=timeout, ttl=2)
    for _ in os.walk(stage.path):
        pass
    stage.server.break_with(Rule("silent", on))
    within = timeout + _MARGIN
    for turn, kind in enumerate(KINDS):
        _hold(stage, f"{kind}, alone", [_call(stage, kind, turn)], within)
    calls = [_call(stage, KINDS[turn % len(KINDS)], turn) for turn in range(len(KINDS), turns)]
    _hold(stage, f"{at_once} at once", calls, within, meanwhile=stage.answers)
    process = stage.mounted.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        process.wait(2 * within)
    stage.check(at_most("seconds from SIGTERM to the end", time.monotonic() - began, within + timeout))


def waiting(stage: Stage, programs: int, latency: float, on: str = "POST+DELETE") -> None:
    """Programs wait in fsync: what is known is answered at once, and so is `status`."""
    there = {f"f{number}": b"at first" for number in range(programs)}
    stage.start(there, latency=latency, timeout=30, ttl=60)
    for name in os.listdir(stage.path):
        os.stat(stage.path / name)
    stage.server.break_with(Rule("silent", on))
    began = [threading.Event() for _ in range(programs)]

    def work(number: int) -> None:
        handle = os.open(stage.path / f"f{number}", os.O_WRONLY | os.O_TRUNC)
        os.write(handle, b"saved")
        began[number].set()
        with suppress(OSError):
            os.fsync(handle)
        os.close(handle)

    threads = _begun([partial(work, number) for number in range(programs)])
    for event in began:
        event.wait(10)
    time.sleep(0.5)  # from the last write to its fsync
    looked = time.monotonic()
    _hold(stage, "stat of a known name", [lambda: os.stat(stage.path / "f0")], _AT_ONCE)
    _hold(stage, "ls of a known directory", [lambda: os.listdir(stage.path)], _AT_ONCE)
    stage.answers()
    stage.check(
        at_most("seconds that the looks take, all together", time.monotonic() - looked, 4 * _AT_ONCE),
        equal("programs that wait meanwhile", sum(thread.is_alive() for thread in threads), programs),
    )
    stage.mounted.kill()
    for thread in threads:
        thread.join(_MARGIN)


def _call(stage: Stage, kind: str, turn: int) -> Callable[[], object]:
    """A call on names of its own."""
    own = stage.path / f"{kind}{turn}".replace(" ", "-")

    def fsync() -> None:
        handle = os.open(own, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(handle, b"saved")
            os.fsync(handle)
        finally:
            os.close(handle)

    calls: dict[str, Callable[[], object]] = {
        "rename": lambda: os.rename(own, f"{own}.renamed"),
        "fsync": fsync,
        "mkdir": lambda: os.mkdir(stage.path / f"made{turn}"),
        "unlink": lambda: os.unlink(own),
        "rmdir": lambda: os.rmdir(own),
        "rename over": lambda: os.rename(own, stage.path / f"unlink{turn}"),
    }
    return calls[kind]


def _begun(calls: list[Callable[[], object]]) -> list[threading.Thread]:
    """A thread for each call, which makes it now; its answer is not asked for, only that there is one."""

    def make(call: Callable[[], object]) -> None:
        with suppress(OSError):
            call()

    threads = [threading.Thread(target=make, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def _hold(
    stage: Stage,
    what: str,
    calls: list[Callable[[], object]],
    within: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Makes the calls at the same time, and holds them to their end."""
    began = time.monotonic()
    threads = _begun(calls)
    meanwhile()
    # A little more, to be able to say how much it is too long.
    end = began + within + 1
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = sum(thread.is_alive() for thread in threads)
    took = time.monotonic() - began
    told = f"{late} of {len(threads)} not within {took:.1f}" if late else ""
    stage.check(in_time(f"seconds of {what}", took, within, told))


def room(stage: Stage, files: int, size: int, bandwidth: int, latency: float, rounds: int) -> None:
    """What people wait for, while large files are sent over a slow line."""
    small = {f"small/s{number:03}.txt": source(number) for number in range(200)}
    stage.start({"large": None, **small}, latency=latency, bandwidth=bandwidth)
    people = _People(stage, sorted(small))
    quiet = people.work(2)
    large = {f"b{n:02}.bin": source(n) * (size // len(source(n)) + 1) for n in range(files)}
    here = put_on_disk(stage.home / "here", large)
    stage.run("cp", *sorted(here.iterdir()), stage.path / "large")
    stage.expected.put_all(tree_of(here, "large"))
    busy = people.work(rounds, lambda: stage.sampler.now.unsent > 0)
    stage.check(at_least("rounds of all this beside the transfer", people.rounds, min(rounds, 2)))
    for name, seconds in busy.items():
        limit = _TIMES * quiet[name] + _LATENCIES * latency / 1000
        stage.check(at_most(f"{name}: seconds beside bulk ({quiet[name]:.2f} without)", seconds, limit))
    stage.server.set(bandwidth=0)
    # What the server has begun to take at the old pace it goes on taking so.
    stage.finish(Bounds(files=files + 50), within=10 + files * size / bandwidth)


class _People:
    """What people do and wait for; each time with other names, so that nothing is known beforehand."""

    def __init__(self, stage: Stage, small: list[str]) -> None:
        self._stage, self._small = stage, iter(small)
        self._numbers = itertools.count()
        self.rounds = 0

    def work(self, rounds: int, moving: Callable[[], bool] = lambda: True) -> dict[str, float]:
        """The longest that each took, in seconds, in so many rounds; `rounds` are those during which something was `moving`."""
        self.rounds = 0
        longest: dict[str, float] = {}
        there = self._stage.path
        deeds: dict[str, Callable[[], object]] = {
            "ls": lambda: os.listdir(there / "small"),
            "mkdir": self._mkdir,
            "read of a small file": lambda: (there / next(self._small)).read_bytes(),
            "small save with fsync": self._save,
            "stat of what the job just made": self._stat,
        }
        for _ in range(rounds):
            for name, deed in deeds.items():
                began = time.monotonic()
                deed()
                longest[name] = max(longest.get(name, 0.0), time.monotonic() - began)
            self.rounds += moving()
        return longest

    def _mkdir(self) -> None:
        name = f"made{next(self._numbers)}"
        os.mkdir(self._stage.path / name)
        self._stage.expected.put(name, None)

    def _save(self) -> None:
        name, data = f"saved{next(self._numbers)}", b"7 bytes"
        self._stage.calls.save(self._stage.path / name, data)
        self._stage.expected.put(name, data)

    def _stat(self) -> None:
        """By a name that nobody has asked for: it is not known that there is none."""
        name = f"job{next(self._numbers)}"
        self._stage.server.write(name, b"the job's")
        self._stage.expected.put(name, b"the job's")
        while not os.path.exists(self._stage.path / name) and not self._stage.expired:
            time.sleep(0.01)

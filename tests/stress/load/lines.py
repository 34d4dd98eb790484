"""A slow line: room for people while much is on its way."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable

from tests.stress.report import at_least, at_most

from .bounds import Bounds
from .expected import tree_of
from .rewriting import put_on_disk, source
from .stage import Stage

#: Beside bulk transfers a call may take so many times what it takes on a quiet line, and so many latencies more. Of these,
#: ten are what pieces of sixteen uploads stand for in the server's own queue.
_TIMES, _LATENCIES = 3, 20


def room(stage: Stage, files: int, size: int, bandwidth: int, latency: float, rounds: int) -> None:
    """What people wait for, while large files are sent over a slow line."""
    small = {f"small/s{number:03}.txt": source(number) for number in range(200)}
    stage.start({"large": None, **small}, latency=latency, bandwidth=bandwidth)
    people = _People(stage, sorted(small))
    quiet = people.work(2)
    large = {f"b{n:02}.bin": source(n) * (size // len(source(n)) + 1) for n in range(files)}
    here = put_on_disk(stage.home / "here", large)
    with stage.doing(
        f"{files} files of {size / 1e6:g} MB sent at {bandwidth / 1e6:g} MB/s, {latency:g} ms", 1
    ):
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
        deeds: dict[str, Callable[[], None]] = {
            "ls": self._ls,
            "mkdir": self._mkdir,
            "read of a small file": self._read,
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

    def _ls(self) -> None:
        with self._stage.calls.of("ls", local=False):
            os.listdir(self._stage.path / "small")

    def _mkdir(self) -> None:
        name = f"made{next(self._numbers)}"
        with self._stage.calls.of("mkdir", local=False):
            os.mkdir(self._stage.path / name)
        self._stage.expected.put(name, None)

    def _read(self) -> None:
        with self._stage.calls.of("read", local=False):
            (self._stage.path / next(self._small)).read_bytes()

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

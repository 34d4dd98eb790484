"""A trial: one system at one round trip. Workloads use it to time programs and to check their output."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lab import PATIENCE, Lab, NotMeasured
from .measure import Sample
from .system import Cost, Mounted, System

_F_SETPIPE_SZ = 1031


@dataclass
class Plan:
    """How much a run does: everything, or (`quick`) just enough to see that the bench works. `patience` is in seconds."""

    quick: bool = False
    patience: float = PATIENCE

    def share(self, count: int) -> int:
        """Return `count`, or a small part of it."""
        return max(1, count // 50) if self.quick else count


class Trial:
    """`system` behind a network with a round trip of `rtt` seconds."""

    def __init__(self, lab: Lab, system: System, rtt: float, plan: Plan) -> None:
        self.lab, self.system, self.rtt, self.plan = lab, system, rtt, plan
        self.env = lab.environment()
        system.set_rtt(rtt)

    @property
    def is_jobfs(self) -> bool:
        """Return whether jobfs is under test."""
        return self.system.name == "jobfs"

    def mounted(self, dataset: str, **options: Any) -> AbstractContextManager[Mounted]:
        """Mount a data set with empty caches; only jobfs gets the options."""
        return self.system.mount(dataset, **(options if self.is_jobfs else {}))

    def timed(
        self,
        mounted: Mounted,
        command: Sequence[object],
        check: Callable[[str], None],
        cwd: Path | None = None,
    ) -> Sample:
        """Run a program and time it; `check` raises if its output is wrong."""
        with self.system.metered(mounted) as cost:
            began = time.perf_counter()
            out = self.run(command, cwd)
            seconds = time.perf_counter() - began
        check(out)
        return sample(seconds, cost)

    def run(self, command: Sequence[object], cwd: Path | None = None) -> str:
        """Return a program's output. Raises NotMeasured if it fails or takes too long."""
        words = [str(word) for word in command]
        try:
            done = subprocess.run(
                ["env", "-C", str(cwd or self.lab.root), *words], env=self.env, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=self.plan.patience, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"{words[0]} gave up after {self.plan.patience:.0f} s") from None
        if done.returncode:
            raise NotMeasured(
                f"{' '.join(words[:3])} ended with {done.returncode}: {done.stderr.decode()[-300:]}"
            )
        return done.stdout.decode()

    def stream(self, command: Sequence[object]) -> tuple[float, float, bytes]:
        """Return the seconds until a program's first byte and until its last one, and its output."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], env=self.env, stdout=subprocess.PIPE, bufsize=0
        )
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, _F_SETPIPE_SZ, 1 << 20)
        pieces, first = [], 0.0
        while piece := os.read(process.stdout.fileno(), 1 << 20):
            first = first or time.perf_counter() - began
            pieces.append(piece)
        whole = time.perf_counter() - began
        process.stdout.close()
        if process.wait(10):
            raise NotMeasured(f"{command[0]} ended with {process.returncode}")
        return first, whole, b"".join(pieces)


def sample(seconds: float, cost: Cost, **facts: float) -> Sample:
    """Return a sample with its cost."""
    return Sample(seconds, cost.requests, cost.moved, cost.cpu, {"served_cpu": cost.served, **facts})


def same(found: Any, wanted: Any, what: str) -> None:
    """Raise NotMeasured unless a result is right: a wrong one is not fast."""
    if found != wanted:
        raise NotMeasured(f"{what}: the answer is wrong: {_difference(found, wanted)}")


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, bytes) and isinstance(wanted, bytes):
        return f"{len(found)} bytes that differ from the {len(wanted)} wanted"
    if isinstance(found, dict):
        found, wanted = set(found.items()), set(wanted.items())
    if isinstance(found, set):
        missing, more = sorted(wanted - found)[:3], sorted(found - wanted)[:3]
        return f"{len(wanted - found)} missing ({missing}), {len(found - wanted)} too many ({more})"
    return f"{str(found)[:200]!r} instead of {str(wanted)[:200]!r}"

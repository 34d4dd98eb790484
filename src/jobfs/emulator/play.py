"""A sample job that keeps writing, to watch how a client follows it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

from .jobside import JobSide

_DOING = ("reading data", "cleaning a station", "comparing months", "writing a report", "checking figures")

#: Numbers of steps after which a file is rewritten in place, created, or replaced by a new item.
_REWRITE, _NEW, _REPLACE = 3, 4, 7


class Player:
    """Plays the job in a thread: one step every `interval` seconds, completed after `steps` (0: never)."""

    def __init__(self, side: JobSide, interval: float = 1.0, steps: int = 0) -> None:
        self._side = side
        self._interval = interval
        self._steps = steps
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)

    def start(self) -> None:
        """Start to play."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        step = 0
        while (not self._steps or step < self._steps) and not self._stopping.wait(self._interval):
            step += 1
            play_step(self._side, step, last=step == self._steps)


def play_step(side: JobSide, step: int, last: bool = False) -> None:
    """Do what the job does in one step: the log grows; every few steps a report is rewritten and a file created."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    doing = _DOING[step % len(_DOING)]
    job = side.set_job(current_step=side.job().current_step + 1, status="completed" if last else "processing")
    side.append("logs/run.log", f"{now} INFO step {job.current_step}: {doing}\n")
    if step % _REWRITE == 0 or last:
        side.write("reports/progress.md", _progress(job.current_step, now, last))
    if step % _NEW == 0:
        result = {"step": job.current_step, "doing": doing, "at": now}
        side.write(f"results/step-{job.current_step:05d}.json", json.dumps(result, indent=2) + "\n")
    if step % _REPLACE == 0:
        text = f"{job.current_step}\n"
        if side.exists("results/latest.txt"):
            side.replace("results/latest.txt", text)
        else:
            side.write("results/latest.txt", text)


def _progress(step: int, now: str, last: bool) -> str:
    state = "completed" if last else "at work"
    done = "\n".join(f"- [x] step {number}" for number in range(max(1, step - 9), step + 1))
    return f"# Progress\n\nThe job is {state}: step {step} at {now}.\n\n{done}\n"

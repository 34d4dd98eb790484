"""A server that answers GET and says nothing to POST and DELETE: every call has one deadline, and holds up no other."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tests.stress.report import at_most, equal, in_time

from jobfs.emulator import Rule

from .stage import Stage

#: Seconds beyond --timeout within which every call ends.
_MARGIN = 5.0
#: Seconds for a look at what is known, on a machine with other work.
_AT_ONCE = 1.0

KINDS = ("rename", "fsync", "mkdir", "unlink", "rmdir", "rename over")


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
    with stage.doing(f"{on} is never answered, --timeout {timeout:g}, {at_once} calls at once", turns):
        for turn, kind in enumerate(KINDS):
            _hold(stage, f"{kind}, alone", [_call(stage, kind, turn)], within)
        calls = [_call(stage, KINDS[turn % len(KINDS)], turn) for turn in range(len(KINDS), turns)]
        _hold(stage, f"{at_once} at once", calls, within, meanwhile=stage.answers)
    process = stage.mounted.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    began, late = time.monotonic(), ""
    try:
        process.wait(2 * within)
    except subprocess.TimeoutExpired:
        late = "it has not ended"
    stage.check(in_time("seconds from SIGTERM to the end", time.monotonic() - began, within + timeout, late))


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

    with stage.doing(f"{programs} programs wait in fsync; stat, status", programs):
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

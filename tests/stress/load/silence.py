"""Waiting: on a server that never answers each call has one deadline, and holds up no other; on a slow line people have room."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from tests.stress.report import at_least, at_most, equal, in_time
from tests.support.waiting import eventually

from .bounds import Bounds
from .calls import NotedCalls, RefusedError
from .stage import Stage
from .trees import put_on_disk, source

#: Seconds beyond --timeout within which every call ends.
_MARGIN = 5.0
#: Seconds for a look at what is known, on a machine with other work.
_AT_ONCE = 1.0
#: Beside bulk transfers a call may take so many times what it takes on a quiet line, and so many latencies more. Of these,
#: ten are what pieces of sixteen uploads stand for in the server's own queue.
_TIMES, _LATENCIES = 3, 20

#: Calls that need the server, each by the name of a file or an empty directory of its own.
_KINDS: dict[str, Callable[[NotedCalls, str], object]] = {
    "rename": lambda calls, own: calls.rename(own, f"{own}.renamed"),
    "mkdir": lambda calls, own: calls.make(os.mkdir, f"{own}.made"),
    "unlink": lambda calls, own: calls.unlink(own),
    "rmdir": lambda calls, own: calls.make(os.rmdir, own),
    "over": lambda calls, own: calls.rename(own, f"{own}.other"),
    "fsync": lambda calls, own: calls.save(own, b"saved", sync=True),
}


def silent(stage: Stage, timeout: float, programs: int, latency: float, on: str) -> None:
    """Programs wait in fsync: what is known is answered at once. Every kind of call has one deadline; then SIGTERM.

    Requests of `on` get no answer.
    """
    names = {kind: [f"{kind}{number}" for number in range(programs)] for kind in _KINDS}
    stage.start(_tree(names), latency=latency, timeout=timeout, ttl=60)
    for _ in os.walk(stage.path):
        pass
    stage.notes.local = ()
    stage.act("network", "is silent from the start", on=on)
    within = timeout + _MARGIN
    calls = {
        kind: [partial(call, stage.calls, name) for name in names[kind]] for kind, call in _KINDS.items()
    }
    savers = _begin(*calls.pop("fsync"))
    # Each has opened its file and written to it.
    eventually(lambda: stage.notes.done >= 2 * programs, "the programs to write")
    time.sleep(0.5)  # from the last write to its fsync
    others = _begin(*[call for some in calls.values() for call in some[: programs // len(calls)]])
    known = stage.path / "known"
    _join(stage, "stat of a known name", _begin(lambda: os.stat(known / "file")), _AT_ONCE)
    _join(stage, "ls of a known directory", _begin(lambda: os.listdir(known)), _AT_ONCE)
    stage.answers()
    stage.check(equal("programs that still wait", sum(each.is_alive() for each in savers[1]), programs))
    _join(stage, "fsync", savers, within)
    _join(stage, "other calls", others, within)
    _terminate(stage, within + timeout)


def _tree(names: dict[str, list[str]]) -> dict[str, bytes | None]:
    """Return what the calls of each kind need, by their names, and a file that is only looked at."""
    tree: dict[str, bytes | None] = {"known/file": b"known"}
    for kind, own in names.items():
        tree |= dict.fromkeys(own, None if kind == "rmdir" else b"content")
    return tree | {f"{name}.other": b"other" for name in names["over"]}


def _terminate(stage: Stage, within: float) -> None:
    """Check that the mount ends within so many seconds after SIGTERM."""
    process = stage.mounted.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    began = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        process.wait(2 * within)
    stage.check(at_most("seconds from SIGTERM to the end", time.monotonic() - began, within))


def _begin(*calls: Callable[[], object]) -> tuple[float, list[threading.Thread]]:
    """Make each call in a thread of its own; whether it succeeds does not matter, only that it returns."""

    def make(call: Callable[[], object]) -> None:
        with suppress(OSError, RefusedError):
            call()

    threads = [threading.Thread(target=make, args=[call], daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return time.monotonic(), threads


def _join(stage: Stage, what: str, calls: tuple[float, list[threading.Thread]], within: float) -> None:
    """Check that the calls return within so many seconds."""
    began, threads = calls
    for thread in threads:
        # A little more, to be able to say how much it is too long.
        thread.join(max(0.0, began + within + 1 - time.monotonic()))
    late, took = sum(thread.is_alive() for thread in threads), time.monotonic() - began
    reason = f"{late} of {len(threads)} not within {took:.1f}" if late else ""
    stage.check(in_time(f"seconds of {what}", took, within, reason))


def room(stage: Stage, files: int, size: int, bandwidth: int, latency: float, rounds: int) -> None:
    """What people wait for, while large files are sent over a slow line."""
    small = {f"small/s{number:03}.txt": source(number) for number in range(200)}
    stage.start({"large": None, **small}, latency=latency, bandwidth=bandwidth)
    names = (f"{number}.txt" for number in itertools.count())
    unread = iter(small)
    quiet, _ = _play(stage, names, unread, 2)
    large = {f"large/b{n:02}.bin": source(n) * (size // len(source(n)) + 1) for n in range(files)}
    here = put_on_disk(stage.home / "here", large) / "large"
    stage.run("cp", *sorted(here.iterdir()), stage.path / "large")
    stage.expected.put_all(large)
    busy, beside = _play(stage, names, unread, rounds)
    stage.check(at_least("rounds of all this beside the transfer", beside, min(rounds, 2)))
    for name, seconds in busy.items():
        limit = _TIMES * quiet[name] + _LATENCIES * latency / 1000
        stage.check(at_most(f"{name}: seconds beside bulk ({quiet[name]:.2f} without)", seconds, limit))
    stage.server.set(bandwidth=0)
    # What the server has begun to take at the old pace it continues to take so.
    stage.finish(Bounds(files=files + 50), within=10 + files * size / bandwidth)


def _play(
    stage: Stage, names: Iterator[str], unread: Iterator[str], rounds: int
) -> tuple[dict[str, float], int]:
    """Do what people wait for in so many rounds, each with other names, so that nothing is known beforehand.

    Returns the longest that each took, in seconds, and the number of rounds during which something was unsent.
    """
    calls, expected, longest, moving = stage.calls, stage.expected, dict[str, float](), 0
    for name in itertools.islice(names, rounds):
        made, saved, by_job = f"made-{name}", f"saved-{name}", f"job-{name}"
        deeds: dict[str, Callable[[], object]] = {
            "ls": partial(calls.make, os.listdir, "small"),
            "mkdir": partial(calls.make, os.mkdir, made),
            "read of a small file": partial(calls.look, next(unread)),
            "small save with fsync": partial(calls.save, saved, b"7 bytes", sync=True),
            "stat of what the job just made": partial(_await, stage, by_job),
        }
        for deed, do in deeds.items():
            began = time.monotonic()
            do()
            longest[deed] = max(longest.get(deed, 0.0), time.monotonic() - began)
        expected.put_all({made: None, saved: b"7 bytes", by_job: b"the job's"})
        moving += stage.sampler.now.unsent > 0
    return longest, moving


def _await(stage: Stage, name: str) -> None:
    """Let the job make a file, by a name that was never asked for, and wait until it is shown."""
    stage.act("job", "creates again", name, b"the job's")
    while not os.path.exists(stage.path / name) and not stage.expired:
        time.sleep(0.01)

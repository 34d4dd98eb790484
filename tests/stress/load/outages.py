"""The server can't be asked for a while: an outage costs disk, and nothing else; what was acknowledged on a full disk is sent."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Literal

from tests.stress.report import at_least, at_most, equal

from .bounds import MEMORY_UNSENT, Bounds
from .calls import RefusedError
from .stage import Stage
from .trees import read_back, source, tree

#: How the server is away: it answers 503, it is not there, it takes requests and never answers.
Away = Literal["503", "refused", "silent"]
#: What ends the outage: the server is back; the mount was killed too, and is mounted again; or is recovered without a mount.
End = Literal["back", "remount", "recover"]

#: Bytes: memory is taken from the system in pieces of 1 MB, by more than one thread.
_PIECES = 2 << 20
#: Seconds until the first file arrives once the server is back, whatever the number of attempts that failed before.
_FIRST = 5.0
#: --timeout of the mount in seconds: so long a request that was sent to a silent server waits for it still.
_TIMEOUT = 5
_MB = 1 << 20


def outage(
    stage: Stage, away: Away, end: End, files: int, saves: int, renames: int, unlinks: int, latency: float
) -> None:
    """New files, saves, renames and unlinks while the server is away; then it is back."""
    old = tree(saves // 2, "old")
    places = {f"new/d{number:02}": None for number in range(10)}
    stage.start({**old, **places}, latency=latency, timeout=_TIMEOUT)
    for _ in os.walk(stage.path):
        pass
    some = list(old)[:20]
    read_back(stage, some)
    if away == "refused":
        stage.server.stop()
    else:
        stage.act("network", "is unavailable" if away == "503" else "is silent from the start")
    _work(stage, files, list(old), renames, unlinks)
    stage.answers()
    read_back(stage, some)
    stage.sampler.take()
    unsent = stage.sampler.take().unsent
    began = _end(stage, end, 60 + files / 20)
    if end == "back":
        while stage.sampler.take().unsent >= unsent and time.monotonic() - began < 60 and not stage.expired:
            time.sleep(0.05)
        first = _FIRST + (_TIMEOUT if away == "silent" else 0)
        stage.check(at_most("seconds until the first file arrives", time.monotonic() - began, first))
    stage.finish(Bounds(files=files + saves), within=10 + (files + saves) / 25)


def _end(stage: Stage, end: End, within: float) -> float:
    """Let the server be back, and the mount if that is killed first; return when that began."""
    if end != "back":
        stage.act("machine", "kills the mount")
    began = time.monotonic()
    stage.server.faults.clear()
    if not stage.server.is_open:
        stage.server.start()
    if end == "recover":
        stage.recover(within)
    if end != "back":
        stage.mounted.mount()
    return began


def _work(stage: Stage, files: int, old: list[str], renames: int, unlinks: int) -> None:
    """Make, save, rename and unlink files and directories; the first call that fails ends the workload."""
    new = [f"new/d{number % 10:02}/n{number:05}" for number in range(files)]
    calls, expected, early = stage.calls, stage.expected, 0

    def save(path: str, data: bytes) -> None:
        calls.save(path, data)
        expected.put(path, data)

    for number, path in enumerate(new):
        save(path, source(number))
        if number == files // 2:
            early = stage.sampler.take().memory
    grown = stage.sampler.take().memory - early
    allowed = MEMORY_UNSENT * files // 2 + _PIECES
    stage.check(at_most("KB that memory grows by in the second half", grown / 1e3, allowed / 1e3))
    for number, path in enumerate([*old, *new[: len(old)]]):
        save(path, b"saved again " + source(number))
    for path in new[:renames]:
        calls.rename(path, f"{path}.renamed")
        expected.move(path, f"{path}.renamed")
    for path in new[renames : renames + unlinks]:
        calls.unlink(path)
        expected.forget(path)
    for path in [f"new/made{number}" for number in range(10)]:
        calls.make(os.mkdir, path)
        expected.put(path, None)
        save(f"{path}/within", b"within")
    for path in ("", "new", "new/d00", "old"):
        calls.make(os.listdir, path)


def full_disk(stage: Stage, end: End, cache: str, files: int, disk: int, latency: float) -> None:
    """`cp` of more than the disk holds while nothing can be sent; `rm` of what failed; then all that was acknowledged is sent.

    `files` of 1 MB each; `disk` in MB. `cache`: "elsewhere", or on the "same" disk, which is filled by reading first.
    """
    read = disk * 3 // 4 if cache == "same" else 1
    seen = {f"seen/s{number:02}": bytes([number]) * _MB for number in range(read)}
    stage.mounted.state.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={disk}m,mode=0700", "tmpfs", str(stage.mounted.state)]
    subprocess.run(words, check=True, capture_output=True)
    stage.ending.callback(subprocess.run, ["umount", "-l", words[-1]], check=True)
    if cache == "same":
        stage.mounted.cache = stage.mounted.state / "cache"
    stage.start({**seen, "new": None}, latency=latency, timeout=5)
    read_back(stage, seen)
    stage.act("network", "is unavailable", on="change")
    stage.notes.local = ()
    kept, gone = list[str](), list[str]()
    for number in range(files):
        path, data = f"new/f{number:02}", source(number) * (_MB // len(source(number)))
        try:
            stage.calls.save(path, data)
        except RefusedError:
            gone += [path] * (stage.path / path).exists()
        else:
            kept.append(path)
            stage.expected.put(path, data)
    errors = {failed.partition(": ")[2] for failed in stage.notes.refused}
    # Half of the disk at the least: the rest is spare room, the journal, and a file that did not fit.
    stage.check(
        at_least("MB that are acknowledged", len(kept), disk // 2),
        equal("how the others fail", ", ".join(sorted(errors)), "ENOSPC"),
    )
    stage.answers()
    gone += kept[:1]
    stage.run("rm", *[stage.path / path for path in gone])
    for path in gone:
        stage.expected.forget(path)
    _end(stage, end, 60)
    stage.finish(Bounds(files=files), within=20)

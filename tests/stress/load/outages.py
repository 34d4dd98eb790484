"""The server can't be asked for a while: an outage costs disk, and nothing else; what was acknowledged on a full disk is sent."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from tests.stress.report import Check, at_least, at_most, equal
from tests.support.files import errno_from

from jobfs.emulator import Rule

from .bounds import MEMORY_UNSENT, Bounds
from .calls import GaveUpError, RefusedError, write_all
from .rewriting import names, read_back, source, tree
from .stage import Stage

#: How the server is away: it answers 503, it is not there, it takes requests and says nothing.
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
    old = names(saves // 2, "old")
    places = {f"new/d{number:02}": None for number in range(10)}
    stage.start({**tree(len(old), "old"), **places}, latency=latency, timeout=_TIMEOUT)
    for _ in os.walk(stage.path):
        pass
    read_back(stage, old[:20])
    if away == "refused":
        stage.server.listen(False)
    else:
        stage.server.break_with(Rule("unavailable" if away == "503" else "silent"))
    try:
        _work(stage, files, old, renames, unlinks)
    except GaveUpError as error:
        # What was acknowledged until then has to arrive all the same.
        stage.check(Check("the work in the outage", str(error), "goes on to its end", held=False))
    stage.answers()
    read_back(stage, old[:20])
    stage.sampler.take()
    unsent = stage.sampler.take().unsent
    mend = stage.server.mend if away != "refused" else partial(stage.server.listen, True)
    began = _mended(stage, end, mend, 60 + files / 20)
    if end == "back":
        while stage.sampler.take().unsent >= unsent and time.monotonic() - began < 60 and not stage.expired:
            time.sleep(0.05)
        first = _FIRST + (_TIMEOUT if away == "silent" else 0)
        stage.check(at_most("seconds until the first file arrives", time.monotonic() - began, first))
    stage.finish(Bounds(files=files + saves), within=10 + (files + saves) / 25)


def _mended(stage: Stage, end: End, mend: Callable[[], None], within: float) -> float:
    """The server is back, and the mount if it has to be; when that began."""
    if end != "back":
        stage.mounted.kill()
    began = time.monotonic()
    mend()
    if end == "recover":
        stage.recover(within)
    if end != "back":
        stage.mounted.mount()
    return began


def _work(stage: Stage, files: int, old: list[str], renames: int, unlinks: int) -> None:
    new = [f"new/d{number % 10:02}/n{number:05}" for number in range(files)]
    early = 0
    for number, path in enumerate(new):
        _write(stage, path, source(number))
        if number == files // 2:
            early = stage.sampler.take().memory
    grown = stage.sampler.take().memory - early
    allowed = MEMORY_UNSENT * files // 2 + _PIECES
    stage.check(at_most("KB that memory grows by in the second half", grown / 1e3, allowed / 1e3))
    for number, path in enumerate([*old, *new[: len(old)]]):
        _write(stage, path, b"saved again " + source(number))
    for path in new[:renames]:
        if _done(stage, os.rename, path, stage.path / f"{path}.renamed"):
            stage.expected.move(path, f"{path}.renamed")
        else:
            stage.expected.doubt(f"{path}.renamed", stage.expected.at(path)[0])
    for path in new[renames : renames + unlinks]:
        if _done(stage, os.unlink, path):
            stage.expected.forget(path)
    for path in [f"new/made{number}" for number in range(10)]:
        if _done(stage, os.mkdir, path):
            stage.expected.put(path, None)
            _write(stage, f"{path}/within", b"within")
        else:
            stage.expected.doubt(path, None)
    for path in ("", "new", "new/d00", "old"):
        _done(stage, os.listdir, path)


def _done(stage: Stage, call: Callable[..., object], path: str, *more: Path) -> bool:
    """Makes a call; False if it failed, which is noted."""
    try:
        with stage.calls.of(call.__name__):
            call(stage.path / path, *more)
    except RefusedError:
        return False
    return True


def _write(stage: Stage, path: str, data: bytes) -> None:
    try:
        stage.calls.save(stage.path / path, data, sync=False)
    except RefusedError:
        stage.expected.doubt(path, data)
        stage.expected.doubt(path, b"")
    else:
        stage.expected.put(path, data)


def full_disk(stage: Stage, end: End, cache: str, files: int, disk: int, latency: float) -> None:
    """`cp` of more than the disk holds while nothing can be sent; `rm` of what failed; then all that was acknowledged is sent.

    `files` of 1 MB each; `disk` in MB. `cache`: "elsewhere", or on the "same" disk, which is filled by reading first.
    """
    read = disk * 3 // 4 if cache == "same" else 1
    seen = {f"seen/s{number:02}": bytes([number]) * _MB for number in range(read)}
    stage.small_disk(stage.mounted.state, disk * _MB)
    if cache == "same":
        stage.mounted.cache = stage.mounted.state / "cache"
    stage.start({**seen, "new": None}, latency=latency, timeout=5)
    for path in seen:
        (stage.path / path).read_bytes()
    stage.server.break_with(Rule("unavailable", "change"))
    kept: list[str] = []
    failed: dict[str, str] = {}
    for number in range(files):
        path = f"new/f{number:02}"
        data = source(number) * (_MB // len(source(number)))
        if code := _copied(stage, path, data):
            failed[path] = errno.errorcode[code]
        else:
            kept.append(path)
            stage.expected.put(path, data)
    # Half of the disk at the least: the rest is spare room, the journal, and a file that did not fit.
    stage.check(
        at_least("MB that are acknowledged", len(kept), disk // 2),
        equal("what the others are told", ", ".join(sorted(set(failed.values()))), "ENOSPC"),
    )
    stage.answers()
    gone = [path for path in failed if (stage.path / path).exists()] + kept[:1]
    stage.run("rm", *[stage.path / path for path in gone])
    for path in gone:
        stage.expected.forget(path)
    _mended(stage, end, stage.server.mend, 60)
    stage.finish(Bounds(files=files), within=20)


def _copied(stage: Stage, path: str, data: bytes) -> int:
    """0 if everything was acknowledged, else the errno."""
    try:
        handle = os.open(stage.path / path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except OSError as error:
        return error.errno or -1
    failed = errno_from(write_all, handle, data)
    closed = errno_from(os.close, handle)
    return failed or closed

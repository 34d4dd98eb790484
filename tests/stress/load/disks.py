"""The disk of the state directory is full: what was acknowledged is sent, and what is no longer needed gives way."""

from __future__ import annotations

import errno
import os
from typing import Literal

from tests.stress.report import at_least, equal
from tests.support.files import errno_from

from jobfs.emulator import Rule

from .bounds import Bounds
from .calls import write_all
from .rewriting import source
from .stage import Stage

_MB = 1 << 20


def full_disk(
    stage: Stage,
    end: Literal["back", "remount", "recover"],
    cache: Literal["elsewhere", "same"],
    files: int,
    disk: int,
    latency: float,
) -> None:
    """`cp` of more than the disk holds while nothing can be sent; `rm` of what failed; then all that was acknowledged is sent.

    `files` of 1 MB each; `disk` in MB. With the cache on the `same` disk, it is filled by reading first.
    """
    seen = {
        f"seen/s{number:02}": bytes([number]) * _MB
        for number in range(disk * 3 // 4 if cache == "same" else 1)
    }
    stage.small_disk(stage.mounted.state, disk * _MB)
    if cache == "same":
        stage.mounted.cache = stage.mounted.state / "cache"
    stage.start({**seen, "new": None}, latency=latency, timeout=5)
    for path in seen:
        (stage.path / path).read_bytes()
    stage.server.break_with(Rule("unavailable", "change"))
    kept: list[str] = []
    what = f"{files} files of 1 MB to a disk of {disk} MB, cache {cache}, then {end}"
    with stage.doing(what, files):
        failed: dict[str, str] = {}
        for number in range(files):
            path = f"new/f{number:02}"
            data = source(number) * (_MB // len(source(number)))
            code = _copied(stage, path, data)
            if code:
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
    if end != "back":
        stage.mounted.kill()
    stage.server.mend()
    if end == "recover":
        stage.recover(within=60)
    if end != "back":
        stage.mounted.mount()
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

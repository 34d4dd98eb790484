"""The temporary mount of `jobfs doctor --try`: a process of its own that shows one directory of the workspace.

It is told what to mount by a line of JSON on its input, says "ready" on its output, and ends when its input does: also
when the process that started it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jobfs.errors import JobfsError
from jobfs.mountpoint import mount_at, unmount
from jobfs.settings import Settings

#: Seconds that a mount takes to start, and beyond its timeouts to end.
_STARTING, _ENDING = 30.0, 15.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def mounted(settings: Settings, job: str, root: str) -> Iterator[Path]:
    """Mount what is below `root` at a directory of its own, and unmount it again. Raises JobfsError if either fails."""
    home = Path(tempfile.mkdtemp(prefix="jobfs-try-"))
    point = home / "mnt"
    point.mkdir()
    given = {
        **settings.model_dump(mode="json"),
        "state_dir": str(home / "state"),
        "cache_dir": str(home / "cache"),
        "ttl": 1.0,
        "read_only": False,
        "allow_other": False,
        "local_only": [],
        "log_level": "warning",
    }
    with (home / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobfs.cli.trialmount"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # No service manager waits for this one, and Ctrl-C is for who started it.
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            start_new_session=True,
            cwd="/",
        )
        try:
            line = json.dumps({"settings": given, "job": job, "root": root, "directory": str(point)})
            if _answer(process, line.encode() + b"\n") != b"ready\n":
                raise JobfsError(f"the temporary mount did not start: {_last(log)}")
            yield point
            if _ended(process, 2 * settings.timeout + _ENDING) != 0:
                raise JobfsError(f"the temporary mount did not end in good order: {_last(log)}")
        finally:
            _put_away(process, home)


def _answer(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Timer(_STARTING, process.kill)
    late.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return b""
    finally:
        late.cancel()


def _ended(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """Let it end; its exit code, None if that takes too long."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None


def _put_away(process: subprocess.Popen[bytes], home: Path) -> None:
    """Nothing of it is left, however it went."""
    if process.poll() is None and _ended(process, _ENDING) is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    point = str(home / "mnt")
    if mount_at(point) is not None:
        with contextlib.suppress(JobfsError):
            unmount(point, lazy=True)
    if mount_at(point) is None:
        shutil.rmtree(home, ignore_errors=True)


def _last(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def main() -> int:
    """Serve the mount; the exit code is the mount's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.umask(0o077)
    from jobfs import mount
    from jobfs.cli import graph, logs, preflight
    from jobfs.state import directory as slot

    settings = Settings(**given["settings"])
    key = preflight.find_key(settings, lambda text: None)
    logs.set_up(settings.log_level, key)
    preflight.check_library()
    place = slot.acquire(settings.state_dir, given["job"], given["directory"], settings.base_url)
    return mount.run(
        settings,
        place,
        lambda: graph.build(settings, given["job"], place, key, root=given["root"]),
        lambda text: print(text, file=sys.stderr, flush=True),
        _ready,
    )


def _ready() -> None:
    # Whoever started it may be gone by now: then its input has ended too.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b"ready\n")


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobfsError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)

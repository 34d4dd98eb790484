"""The temporary mount of `jobfs doctor --try`: a process of its own that shows one directory of the workspace.

It is told what to mount by JSON as its argument, which holds no secret. It writes to its output when the mount answers, and ends
when its input does: also when the process that started it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

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
    told = {"settings": given, "job": job, "root": root, "directory": str(point)}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jobfs.cli.trialmount", json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # No service manager waits for this one, and Ctrl-C is for who started it.
            env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            start_new_session=True,
            cwd="/",
        )
    try:
        if not _answers(process):
            raise JobfsError(f"the temporary mount did not start: {_last(home / 'log')}")
        yield point
        if _ended(process, 2 * settings.timeout + _ENDING) != 0:
            raise JobfsError(f"the temporary mount did not end in good order: {_last(home / 'log')}")
    finally:
        _put_away(process, home)


def _answers(process: subprocess.Popen[bytes]) -> bool:
    """Wait until the mount answers; False if it has ended, or that takes too long."""
    assert process.stdout is not None
    return bool(select.select([process.stdout], (), (), _STARTING)[0] and process.stdout.read(1))


def _ended(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """Let it end; its exit code, None if that takes too long."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None


def _put_away(process: subprocess.Popen[bytes], home: Path) -> None:
    """Nothing of it is left, however it went."""
    if _ended(process, _ENDING) is None:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
    point = str(home / "mnt")
    if mount_at(point) is not None:
        with contextlib.suppress(JobfsError):
            unmount(point, lazy=True)
    if mount_at(point) is None:
        shutil.rmtree(home, ignore_errors=True)


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def main() -> int:
    """Serve the mount; the exit code is the mount's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    given = json.loads(sys.argv[1])
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
        _tell_ready,
    )


def _tell_ready() -> None:
    # Whoever started it may be gone by now: then its input has ended too.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, b".")


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobfsError as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)

"""A local server and mounts of one of its jobs; all of it is gone when the Lab ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _bench.lab import Lab
from jobfs.emulator import DEFAULT_JOB, DEFAULT_KEY

from .sources import NotRunnableError

#: Seconds for a mount to send what is unsent and end.
_DRAIN = 120.0


def require_mount(user: int, device: str = "/dev/fuse") -> None:
    """Raise NotRunnableError if `user`, who runs this, can't mount for several users."""
    if user != 0:
        raise NotRunnableError(
            "run it as root: pjdfstest acts as several users, on a mount with allow_other and default_permissions"
        )
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise NotRunnableError(
            f"{device} can't be opened ({why}); run 'modprobe fuse', or give the container --device /dev/fuse"
        ) from None


class Stage:
    """A server in a process of its own, that ends with the Lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        command = [sys.executable, "-m", "jobfs", "emulator", "--dir", lab.fresh("server")]
        command += ["--job", DEFAULT_JOB, "--key", DEFAULT_KEY]
        self._url = lab.read_line(lab.keep(lab.process(command))).partition("http://")[2].split()[0]

    @contextmanager
    def mount(self) -> Iterator[Path]:
        """Mount the job for all users, with empty directories for cache and state; everything is sent before the end."""
        home = self._lab.fresh("jobfs")
        with self._lab.mount_point() as directory:
            command = [
                sys.executable, "-m", "jobfs", "mount", DEFAULT_JOB, directory, "--foreground", "--allow-other",
                "--local-symlinks", "--base-url", f"http://{self._url}", "--cache-dir", home / "cache",
                "--state-dir", home / "state",
            ]  # fmt: skip
            with self._lab.process(command, self._lab.environment(PERSTACK_API_KEY=DEFAULT_KEY)) as process:
                self._lab.read_line(process)
                yield directory
                process.terminate()
                self._await_end(process)

    def _await_end(self, process: subprocess.Popen[str]) -> None:
        try:
            code = process.wait(_DRAIN)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the mount does not end within {_DRAIN:.0f} s") from None
        if code:
            raise RuntimeError(f"the mount ended with {code}: {self._lab.complaints()}")

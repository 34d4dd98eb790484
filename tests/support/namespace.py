"""A mount namespace: mounts and files in its /sbin are seen by no other process, and disappear with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mounts import environment
from .waiting import readable

#: First, a new namespace detaches the mounts of other tests: held here, they could not end.
LET_GO = "umount -a -i -l -t fuse.jobfs || true\n"
#: Then it gets an /sbin of its own, with everything that is in the real one.
_SET_UP = f"""{LET_GO}
mount -t tmpfs tmpfs "$1" && mkdir "$1/new" "$1/work" &&
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$1/new,workdir=$1/work" overlay /usr/sbin && echo ready && exec sleep 600
"""
#: The PATH of a machine on which jobfs is installed in another place.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Namespace:
    """Runs commands in the namespace, with a PATH without virtual environments."""

    def __init__(self, pid: int, home: Path) -> None:
        self._enter = ("nsenter", "-m", "-t", str(pid), "--")
        self._home = home

    def run(self, *command: str | Path, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        known = environment(self._home, None)
        known.pop("PYTHONPATH", None)
        return subprocess.run(
            [*self._enter, *map(str, command)],
            env={**known, "PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
        )

    def output(self, *command: str | Path) -> str:
        """Return the stdout of a command, which must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


@contextmanager
def namespace(home: Path) -> Iterator[Namespace]:
    """Run a namespace for the block; its mounts end with it."""
    scratch = home / "sbin"
    scratch.mkdir(parents=True)
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", _SET_UP, "sh", str(scratch)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    try:
        assert readable(holder.stdout, 20)
        assert holder.stdout.readline() == "ready\n"
        inside = Namespace(holder.pid, home)
        yield inside
        # The process that serves a mount ends once it is unmounted.
        inside.run("umount", "-a", "-i", "-l", "-t", "fuse.jobfs")
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()

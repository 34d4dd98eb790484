"""A real mount for tests: `jobfs mount` as a subprocess, with its own directories, against a local server.

The server runs in the test's own process. So no call that holds the GIL may wait for the mount: memory maps, and programs started
in the mount, belong in a subprocess (`run` does that).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from jobfs import control
from jobfs.emulator import Server

from .environment import fresh
from .machine import require_mount
from .serverside import check_tree, hidden
from .waiting import eventually, readable

# A child made by vfork or posix_spawn suspends the parent, which holds the GIL; if the child then waits for the mount, that is a
# deadlock.
subprocess._USE_VFORK = False  # type: ignore[misc]
subprocess._USE_POSIX_SPAWN = False  # type: ignore[misc]

_ROOT = Path(__file__).parents[2]

#: Delays short enough for tests; each can be overridden.
TTL = 0.5
QUICK = {"ttl": str(TTL), "write-back-delay": "0.1", "request-lifetime": "0.2", "timeout": "10"}


#: A shell's first command in a new mount namespace: it detaches the mounts of other tests, which could not end while held there.
LET_GO = "umount -a -i -l -t fuse.jobfs || true\n"


def mounts_at(directory: Path) -> list[str]:
    """Return the kernel's lines on what is mounted there, even if it does not answer."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4].replace("\\040", " ") == str(directory)]


def is_mounted(directory: Path) -> bool:
    """Return whether anything is mounted there, even if it does not answer."""
    return bool(mounts_at(directory))


def detach(directory: Path) -> None:
    """Unmount everything that is mounted there, dead or alive."""
    end = time.monotonic() + 10
    while is_mounted(directory) and time.monotonic() < end:
        subprocess.run(["fusermount", "-u", "-z", "-q", str(directory)], check=False, capture_output=True)
    assert not is_mounted(directory)


def environment(home: Path, key: str | None) -> dict[str, str]:
    """Return the environment of a jobfs command: a fresh one (`environment.py`), with this tree's jobfs on the path."""
    made = {**fresh(home), "PYTHONPATH": str(_ROOT / "src")}
    return made if key is None else {**made, "PERSTACK_API_KEY": key}


def jobfs(
    *arguments: str | Path, home: Path, env: dict[str, str] | None = None, timeout: float = 40
) -> subprocess.CompletedProcess[str]:
    """Run one jobfs command to its end; its outputs are captured."""
    command, env = [sys.executable, "-m", "jobfs", *map(str, arguments)], env or environment(home, None)
    given = subprocess.DEVNULL
    return subprocess.run(
        command, env=env, stdin=given, capture_output=True, text=True, timeout=timeout, cwd=home
    )


class Process(Protocol):
    """The part of a mount's process that tests use; it leads a process group of its own."""

    @property
    def pid(self) -> int: ...

    @property
    def stdout(self) -> IO[str] | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class MountedJob:
    """One job, mounted at `path`. It may be unmounted or killed and mounted again, with other options, too."""

    def __init__(self, server: Server, home: Path, **options: Any) -> None:
        self.server = server
        self.home = home
        self.path = home / "mnt"
        self.cache = home / "cache"
        self.state = home / ".local/state/jobfs"
        self.options = options
        self.key: str | None = server.key
        #: Variables of its programs, besides those of `environment`.
        self.variables: dict[str, str] = {}
        self.process: Process | None = None
        self._stderr = home / "stderr"
        home.mkdir(parents=True, exist_ok=True)
        self.path.mkdir()

    @property
    def log(self) -> str:
        """Return everything that the mounts of this object have written to stderr."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def command(self) -> list[str]:
        """Return the command line of the mount."""
        words = [sys.executable, "-m", "jobfs", "mount", self.server.job, str(self.path), "--foreground"]
        options: dict[str, Any] = {
            "base-url": self.server.url, "cache-dir": self.cache, "state-dir": self.state, **QUICK,
            **{name.replace("_", "-"): value for name, value in self.options.items()},
        }  # fmt: skip
        for name, value in options.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words

    def mount(self, **options: Any) -> None:
        """Start the mount, and return when it reports that it is ready. Raises AssertionError with its output if it does not."""
        self.options |= options
        self.process = self.launch()
        assert self.process.stdout is not None
        assert readable(self.process.stdout, 30), f"the mount does not say that it is ready: {self.log}"
        line = self.process.stdout.readline()
        assert str(self.path) in line, f"it says {line!r} and {self.log!r}"

    @property
    def pid(self) -> int:
        """Return the id of the mount's process."""
        assert self.process is not None
        return self.process.pid

    def environment(self) -> dict[str, str]:
        """Return the environment of its programs."""
        return {**environment(self.home, self.key), **self.variables}

    def launch(self) -> Process:
        """Start the mount's process; do not wait until it is ready."""
        with self._stderr.open("ab") as stderr:
            return subprocess.Popen(
                self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                text=True, cwd=self.home, start_new_session=True,
            )  # fmt: skip

    def jobfs(self, *arguments: str | Path, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        """Run another jobfs command with this mount's environment."""
        return jobfs(*arguments, home=self.home, env=self.environment(), timeout=timeout)

    @contextmanager
    def running(
        self, *arguments: str | Path, out: int | IO[Any] = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        """Run another jobfs command beside the block, and kill it afterwards. `out`: where both of its outputs go."""
        command, env = [sys.executable, "-m", "jobfs", *map(str, arguments)], self.environment()
        with subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd="/", text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def umount(self) -> None:
        """Run `jobfs umount`: afterwards the server has everything, and the process has ended with 0."""
        done = self.jobfs("umount", self.path)
        assert done.returncode == 0, done.stderr + self.log
        self.wait_for_end()

    def wait_for_end(self, timeout: float = 15) -> None:
        """Wait for the mount's process to end by itself, with 0."""
        assert self.process is not None
        code = self.process.wait(timeout)
        self._closed()
        assert code == 0, f"it ended with {code}: {self.log}"
        assert not is_mounted(self.path)

    def kill(self) -> None:
        """Kill the process with SIGKILL, and detach the dead mount."""
        self.kill_only()
        detach(self.path)

    def kill_only(self) -> None:
        """Kill the process with SIGKILL; the dead mount stays."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self._closed()

    def _closed(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None

    def remount(self, **options: Any) -> None:
        """Unmount in good order, if mounted, and mount again with the same directories."""
        if self.process is not None:
            self.umount()
        self.mount(**options)

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Make a call of the commands to the mount, over its control socket, without starting a program."""
        (path,) = (self.state / self.server.job).glob(f"*/{control.SOCKET}")
        answer: dict[str, Any] = control.call_mount(path.parent, name, arguments, timeout=30.0)
        return answer

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        """Connect to the control socket for the block, by a descriptor: its path may be too long for an address."""
        (path,) = (self.state / self.server.job).glob(f"*/{control.SOCKET}")
        directory = os.open(path.parent, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"/proc/self/fd/{directory}/{control.SOCKET}")
                yield connection
        finally:
            os.close(directory)

    def flush(self) -> None:
        """Do what `jobfs flush` does: the server has everything that was closed."""
        left = self.ask("flush", path=None, timeout=30)["left"]
        assert not left, f"{left}\n{self.log}"

    def status(self) -> dict[str, Any]:
        """Return what `jobfs status --json` shows."""
        return self.ask("status")

    def wait_until_settled(self, tree: Mapping[str, bytes | None] | None = None) -> None:
        """Wait until everything is sent, and nothing hidden is left on the server; then check that it has this tree, if given."""
        self.flush()
        # Only a listing reveals the leftover of a create whose answer was lost.
        eventually(
            lambda: os.listdir(self.path) is not None and not hidden(self.server),
            lambda: f"hidden: {hidden(self.server)}\n{self.log}",
        )
        check_tree(self.server, tree)


def run(
    cwd: Path, *command: str | Path, home: Path | None = None, timeout: float = 180, check: bool = True
) -> str:
    """Run a program with this working directory; return its stdout. Raises AssertionError with its stderr if it fails."""
    done = subprocess.run(
        ["env", "-C", str(cwd), *map(str, command)],
        env=environment(home, None) if home else None, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout


@contextmanager
def mounting(server: Server, home: Path, start: bool = True, **options: Any) -> Iterator[MountedJob]:
    """Mount for the block, and clean up afterwards in any case; `options` are flags, with underscores."""
    with gone_afterwards(MountedJob(server, home, **options), start) as job:
        yield job


J = TypeVar("J", bound=MountedJob)
#: A function that mounts a job with options, another mount at each call.
Mount = Callable[..., MountedJob]


@contextmanager
def gone_afterwards(job: J, start: bool = True) -> Iterator[J]:
    """Yield a mount, started or not; kill it afterwards. Skips the test where no mount is possible."""
    require_mount()
    try:
        if start:
            job.mount()
        yield job
    finally:
        job.kill()

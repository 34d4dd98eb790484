"""The lab: its own directory, processes and mount points. All of them are gone at the end, even after an error."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]

#: Seconds after which a program is assumed to hang.
PATIENCE = 150.0

#: Signals that ask the bench to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_TICKS = os.sysconf("SC_CLK_TCK")


class NotMeasured(Exception):  # noqa: N818
    """Something could not be measured, or its result was wrong; the message says what."""


def await_that(condition: Callable[[], Any], what: str, patience: float = 30.0, pause: float = 0.01) -> Any:
    """Return the first true value of `condition`. Raises NotMeasured if there is none within `patience` seconds."""
    end = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > end:
            raise NotMeasured(f"{what}: not within {patience:.0f} s")
        time.sleep(pause)
    return value


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, user and kernel mode, all threads; its resolution is 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Return the peak resident memory of the process, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0


def is_mounted(directory: Path) -> bool:
    """Return whether anything is mounted there, even if it does not answer."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(directory) for line in lines)


def detach(directory: Path) -> None:
    """Unmount whatever is still mounted there."""
    for _ in range(50):
        if not is_mounted(directory):
            return
        for command in (["fusermount", "-u", "-z", "-q"], ["umount", "-l"]):
            if is_mounted(directory):
                subprocess.run([*command, str(directory)], check=False, capture_output=True)
        time.sleep(0.1)


@contextlib.contextmanager
def deferred_signals() -> Iterator[None]:
    """Deliver signals that ask the bench to end only after the block.

    In it a process is started or ended: interrupted there, it would live on, and write to the lab's directory.
    """
    arrived: list[int] = []

    def note(number: int, frame: object) -> None:
        arrived.append(number)

    previous = {number: signal.signal(number, note) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for each in arrived:
            signal.raise_signal(each)


class Lab:
    """A context: a temporary directory, and everything that is started in it."""

    def __init__(self, name: str = "bench") -> None:
        self._name = name
        self._stack = contextlib.ExitStack()
        self._number = 0

    def __enter__(self) -> Lab:
        self.root = Path(tempfile.mkdtemp(prefix=f"jobfs-{self._name}-")).resolve()
        self.root.chmod(0o711)  # davfs2 drops root's rights, and must reach its cache
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second signal must not interrupt the cleanup after the first one.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        try:
            self._stack.close()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def keep(self, context: contextlib.AbstractContextManager[Any]) -> Any:
        """Enter `context`, which ends with the lab."""
        return self._stack.enter_context(context)

    def fresh(self, name: str) -> Path:
        """Return a new, empty directory."""
        self._number += 1
        directory = self.root / f"{name}-{self._number}"
        directory.mkdir()
        return directory

    @contextlib.contextmanager
    def mount_point(self) -> Iterator[Path]:
        """Yield a new directory to mount at; whatever is mounted there is unmounted afterwards."""
        directory = self.fresh("mnt")
        try:
            yield directory
        finally:
            with deferred_signals():
                detach(directory)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of programs: a home of their own, and none of the developer's settings."""
        home = self.root / "home"
        (home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JOBFS_", "PERSTACK_", "XDG_", "GIT_"))
        }
        kept |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "LC_ALL": "C.UTF-8"}
        kept |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "1"}
        kept |= {"GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        kept["PYTHONPATH"] = f"{ROOT / 'src'}:{ROOT / 'scripts'}"
        return {**kept, **more}

    @contextlib.contextmanager
    def process(
        self, command: Sequence[object], env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a process with pipes for stdin and stdout, detached from the terminal; end it afterwards."""
        with contextlib.ExitStack() as stack:
            with deferred_signals(), (self.root / "stderr.log").open("ab") as stderr:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    env=env or self.environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=self.root,
                    start_new_session=True,
                )
                stack.callback(_end, process)
            yield process

    def complaints(self) -> str:
        """Return the last lines that any process of the lab wrote to stderr."""
        log = self.root / "stderr.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""

    def read_line(self, process: subprocess.Popen[str]) -> str:
        """Return the next line of a process's stdout. Raises NotMeasured if it has ended, or prints nothing for too long."""
        assert process.stdout is not None
        # No process prints more than one line at a time, so the buffer can't hold one already.
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise NotMeasured(f"{process.args!r} says nothing for {PATIENCE:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise NotMeasured(f"{process.args!r} has ended: {self.complaints()}")
        return line.strip()


def _end(process: subprocess.Popen[str]) -> None:
    """End a process; a signal that arrives while it ends is delivered afterwards."""
    with deferred_signals():
        _terminate(process)


def _terminate(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
            return


class Relay:
    """A running relay to one port; `port` is its own."""

    def __init__(self, lab: Lab, to: int, rtt: float = 0.0) -> None:
        command = [sys.executable, "-m", "_bench.relay", str(to), str(rtt)]
        self._lab = lab
        self._process = lab.keep(lab.process(command))
        self.port = int(lab.read_line(self._process))
        self.pid: int = self._process.pid

    def ask(self, **changes: float) -> dict[str, int]:
        """Change the network's settings, if any are given; return the counts so far."""
        self._process.stdin.write(json.dumps(changes) + "\n")
        self._process.stdin.flush()
        counts: dict[str, int] = json.loads(self._lab.read_line(self._process))
        return counts

    def quiet(self, for_seconds: float = 0.25, patience: float = 60.0) -> dict[str, int]:
        """Return the counts once they have not changed for a while; all times in seconds."""
        end = time.monotonic() + patience
        counts, since = self.ask(), time.monotonic()
        while time.monotonic() - since < for_seconds and time.monotonic() < end:
            time.sleep(0.05)
            now = self.ask()
            if now != counts:
                counts, since = now, time.monotonic()
        return counts

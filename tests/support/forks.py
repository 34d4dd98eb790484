"""Mounts that start fast: a process that has imported jobfs once, and forks for each mount before it has any thread.

Each fork is `jobfs mount --foreground` as the command line runs it, in the main thread of a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.support.boots import reboot
from tests.support.mounts import MountedJob, environment, gone_afterwards
from tests.support.overlaps import force_overlap
from tests.support.waiting import readable

from jobfs.emulator import Server


class ForkServer:
    """The tests' side of the process that forks.

    `descriptors`: the soft and hard limit of open files of the forked processes; None: the limits of this process. `overlap`: the
    saves of its mounts overlap (tests/support/overlaps.py).
    """

    def __init__(self, home: Path, descriptors: int | None = None, *, overlap: bool = False) -> None:
        self._lock = threading.Lock()
        self._here, there = socket.socketpair()
        command = [sys.executable, "-m", "tests.support.forks", str(there.fileno()), *["overlap"][:overlap]]
        env = {**environment(home, None), "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}"}
        self._process = subprocess.Popen(
            command,
            env=env,
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=home,
            start_new_session=True,
        )
        there.close()
        if descriptors is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (descriptors, descriptors))

    def run(
        self, arguments: list[str], env: dict[str, str], cwd: Path, out: int, err: int, boot: str = ""
    ) -> Forked:
        """Run `jobfs` with these arguments in a new process; `boot`: in another boot of this machine."""
        question = {"arguments": arguments, "env": env, "cwd": str(cwd), "boot": boot}
        return Forked(self, self.ask(question, [out, err]))

    def output(
        self, words: list[str], env: dict[str, str], cwd: Path, timeout: float | None = None, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `jobfs` with these arguments, or with `execute=True` another command, to its end. Raises TimeoutExpired.

        The command is started by a process that has no other file open: where this process forks, the exec of its child closes
        the descriptors of files that this process has half written, and a mount takes that for their close.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            question = {"arguments": words, "env": env, "cwd": str(cwd), **more}
            process = Forked(self, self.ask(question, [out.fileno(), err.fileno()]))
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait(10)
                raise
            out.seek(0)
            err.seek(0)
            said = [file.read().decode(errors="replace") for file in (out, err)]
        return subprocess.CompletedProcess(words, code, *said)

    def ask(self, question: dict[str, Any], files: list[int]) -> int:
        """Return the id of a new process; or the exit code of one, which has ended or is about to."""
        with self._lock:
            socket.send_fds(self._here, [json.dumps(question).encode()], files)
            answer = self._here.recv(64)
        if not answer:
            raise RuntimeError("the process that forks mounts has died")
        return int(answer)

    def close(self) -> None:
        """End the process that forks; its mounts have ended before."""
        self._here.close()
        self._process.wait(10)


class Forked:
    """A running mount, with the attributes and methods of a subprocess that tests use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server = server
        self.pid = pid
        self._code: int | None = None
        self.stdout: IO[str] | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self._code is None:
            # A pidfd is readable once the process has ended.
            with os.fdopen(os.pidfd_open(self.pid), closefd=True) as ended:
                if not readable(ended, timeout):
                    raise subprocess.TimeoutExpired("jobfs mount", timeout or 0.0)
            self._code = self._server.ask({"wait": self.pid}, [])
        return self._code


class ForkedMount(MountedJob):
    """A mount whose process is forked. `boot`: the boot of this machine in which the next process runs; "": the real one."""

    def __init__(self, forks: ForkServer, server: Server, home: Path, **options: Any) -> None:
        super().__init__(server, home, **options)
        self.boot = ""
        self._forks = forks

    def launch(self) -> Any:
        """Start the mount's process; do not wait until it is ready."""
        read, write = os.pipe()
        err = os.open(self._stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = self._forks.run(
                self.command()[3:], self.environment(), self.home, write, err, self.boot
            )
        finally:
            os.close(write)
            os.close(err)
        process.stdout = os.fdopen(read)
        return process

    def jobfs(self, *arguments: str | Path, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        """Run another jobfs command with this mount's environment, in a forked process, too."""
        return self._forks.output(list(map(str, arguments)), self.environment(), self.home, timeout)


@contextlib.contextmanager
def forking(
    forks: ForkServer, server: Server, home: Path, start: bool = True, **options: Any
) -> Iterator[ForkedMount]:
    """Do as `mounting`, with a forked mount."""
    with gone_afterwards(ForkedMount(forks, server, home, **options), start) as job:
        yield job


_ROOT = Path(__file__).parents[2]


def _serve(channel: socket.socket) -> None:
    """Fork on request until the other side closes the channel; then kill everything that was forked."""
    import jobfs.__main__
    import jobfs.cli.graph
    import jobfs.cli.mount
    import jobfs.fuse.driver
    import jobfs.fuse.loop
    import jobfs.mount  # noqa: F401 - all that a mount needs is there before the fork

    assert threading.active_count() == 1
    alive: set[int] = set()
    try:
        while True:
            message, files, _, _ = socket.recv_fds(channel, 1 << 16, 2)
            if not message:
                return
            question = json.loads(message)
            if "wait" in question:
                _, status = os.waitpid(question["wait"], 0)
                alive.discard(question["wait"])
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if answer == 0:
                    channel.close()
                    _become(question, *files)
                with contextlib.suppress(OSError):
                    # In parent and child: whichever is first, the process group exists before it can be killed.
                    os.setpgid(answer, answer)
                alive.add(answer)
                for file in files:
                    os.close(file)
            channel.send(str(answer).encode())
    finally:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _become(question: dict[str, Any], out: int, err: int) -> NoReturn:
    code = 70
    try:
        os.setpgid(0, 0)
        os.chdir(question["cwd"])
        os.environ.clear()
        os.environ.update(question["env"])
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        if question.get("execute"):
            os.execvp(question["arguments"][0], question["arguments"])
        if question.get("boot"):
            reboot(Path(question["cwd"]), question["boot"])
        # The old object may have been made for a file, and this is a pipe.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.argv = ["jobfs", *question["arguments"]]
        from jobfs.__main__ import main

        code = main()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    if "overlap" in sys.argv[2:]:
        force_overlap()
    _serve(socket.socket(fileno=int(sys.argv[1])))

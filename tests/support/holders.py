"""Programs that hold a file of a mount open, and follow commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Commands: "write TEXT", "fsync", "close", and "name TEXT", which sets the program's own name. The answer is "ok" or the errno's
#: name.
_CODE = """
import errno, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
print("ok", flush=True)
for line in sys.stdin:
    word, _, text = line.rstrip().partition(" ")
    try:
        if word == "write":
            os.write(file, text.encode())
        elif word == "fsync":
            os.fsync(file)
        elif word == "name":
            open("/proc/self/comm", "wb").write(text.encode())
        elif word == "close":
            os.close(file)
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""

#: Writes files n0, n1, …, and prints the name of each once its close has returned 0; ends at the first error.
_CLOSER = """
import os, sys
os.chdir("/")
for number in range(100_000):
    name = f"n{number}"
    try:
        file = os.open(os.path.join(sys.argv[1], name), os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, name.encode())
        os.close(file)
    except OSError:
        break
    print(name, flush=True)
"""


class Holder:
    """A program with one file open."""

    def __init__(self, path: Path) -> None:
        command = ["env", "-C", "/", sys.executable, "-c", _CODE, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ok"

    @property
    def pid(self) -> int:
        return self.process.pid

    def does(self, what: str) -> str:
        """Send a command; return its result: "ok", or the errno's name."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def holding(path: Path) -> Iterator[Holder]:
    """Run a program that makes or opens the file `path`; kill it afterwards."""
    holder = Holder(path)
    with kill_afterwards(holder.process):
        yield holder


@contextmanager
def kill_afterwards(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill a program at the end of the block."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def closing_files(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a program that makes files in `directory`, and prints the names of those whose close returned 0, one per line."""
    command = [sys.executable, "-c", _CLOSER, str(directory)]
    with kill_afterwards(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/")) as process:
        yield process

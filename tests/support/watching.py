"""Programs that watch by inotify, and their output, which goes into a file because it may come at any time."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobfs import watchers

from .waiting import eventually

#: The command of inotifywait, without the directory to watch. It prints "flags path" for each event.
INOTIFYWAIT = ("inotifywait", "-m", "-r", "-q", "--format", "%e %w%f")


class Watcher:
    """A running program that watches `directory`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, directory: Path) -> None:
        self.process, self.directory, self._output = process, directory, output

    @property
    def lines(self) -> list[str]:
        """Return its output so far, with paths relative to the directory."""
        return self._output.read_text().replace(f"{self.directory}/", "").splitlines()

    def watches(self) -> int:
        """Return how many inodes of the directory's file system it watches."""
        return len(watchers.find_watched_inodes(os.stat(self.directory).st_dev).get(self.process.pid, ()))

    def says(self, expected: set[str], timeout: float) -> None:
        """Wait until it has printed all of these lines."""
        eventually(
            lambda: expected <= {*self.lines},
            lambda: f"missing: {expected - {*self.lines}}; it said {self.lines}",
            timeout,
        )


@contextmanager
def watching(
    output: Path, directory: Path, *command: str | Path, watches: int = 1, stdin: str = ""
) -> Iterator[Watcher]:
    """Start a program, wait until it watches this many inodes, and kill it afterwards."""
    with output.open("wb") as out:
        process = subprocess.Popen(
            ["env", "-C", str(directory), *map(str, command)],
            stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    watcher = Watcher(process, output, directory)
    try:
        assert process.stdin is not None
        process.stdin.write(stdin.encode())
        process.stdin.close()
        eventually(lambda: watcher.watches() >= watches, lambda: f"it does not watch: {watcher.lines}")
        yield watcher
    finally:
        process.kill()
        process.wait()


def counted(lines: list[str]) -> Counter[str]:
    """Count the events that inotifywait has printed, except those of opening and reading.

    The kernel merges two equal events in a row if the first one has not been read yet: equal events in a row count once.
    """
    found: Counter[str] = Counter()
    last: dict[str, str] = {}
    for line in lines:
        flags, path = re.sub(r",(CLOSE|ISDIR)\b", "", line).rstrip("/").split(" ", 1)
        if last.get(path) != flags and flags not in ("OPEN", "ACCESS", "CLOSE_NOWRITE"):
            found[f"{flags} {path}"] += 1
        last[path] = flags
    return found

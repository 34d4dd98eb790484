"""Programs that watch by inotify, and what they say: their output goes to a file, for it may come at any time."""

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

#: How inotifywait is started; a watched directory is to follow. It says "flags path" of each event.
INOTIFYWAIT = ("inotifywait", "-m", "-r", "-q", "--format", "%e %w%f")


class Watcher:
    """A program that is running, and watches `directory`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, directory: Path) -> None:
        self.process, self.directory, self._output = process, directory, output

    @property
    def lines(self) -> list[str]:
        """What it has said so far, with names as they are in the directory."""
        return self._output.read_text().replace(f"{self.directory}/", "").splitlines()

    def watches(self) -> int:
        """How many inodes of the directory's file system it watches."""
        return len(watchers.find_watched_inodes(os.stat(self.directory).st_dev).get(self.process.pid, ()))

    def says(self, expected: set[str], timeout: float) -> None:
        """Waits until it has said all of these lines."""
        eventually(
            lambda: expected <= {*self.lines},
            lambda: f"missing: {expected - {*self.lines}}; it said {self.lines}",
            timeout,
        )


@contextmanager
def watching(
    output: Path, directory: Path, *command: str | Path, watches: int = 1, stdin: str = ""
) -> Iterator[Watcher]:
    """A program that is started, has begun to watch this many inodes, and is killed afterwards."""
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
    """The events that inotifywait has told, but for those of looks, and how often each came.

    The kernel makes one of two equal events that follow each other if the first was not read yet: they count as one.
    """
    found: Counter[str] = Counter()
    last: dict[str, str] = {}
    for line in lines:
        flags, path = re.sub(r",(CLOSE|ISDIR)\b", "", line).rstrip("/").split(" ", 1)
        if last.get(path) != flags and flags not in ("OPEN", "ACCESS", "CLOSE_NOWRITE"):
            found[f"{flags} {path}"] += 1
        last[path] = flags
    return found

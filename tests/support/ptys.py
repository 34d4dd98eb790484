"""A jobfs command on a terminal of its own: what it shows there, Ctrl-C, its exit code."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mounts import environment
from .waiting import PATIENCE, readable

#: What moves the cursor and sets colours.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OnTerminal:
    """A running command; `screen` is all that it has shown, without colours."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int) -> None:
        self._process = process
        self._terminal = terminal
        self._shown = b""

    @property
    def screen(self) -> str:
        return _CONTROL.sub("", self._shown.decode(errors="replace"))

    def shows(self, pattern: str) -> re.Match[str]:
        """Waits until what it shows matches."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.screen)) is None:
            assert time.monotonic() < end, f"{pattern!r} in {self.screen!r}"
            assert self._read(1.0) or self._process.poll() is None, f"{pattern!r} in {self.screen!r}"
        return found

    def answer(self, text: str) -> None:
        """Types a line."""
        os.write(self._terminal, f"{text}\n".encode())

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def ended(self) -> int:
        """Its exit code, once it has ended by itself; everything that it showed is there then."""
        end = time.monotonic() + 2 * PATIENCE
        while self._read(0.2) or self._process.poll() is None:
            assert time.monotonic() < end, f"it goes on, and shows {self.screen!r}"
        return self._process.wait()

    def _read(self, timeout: float) -> bool:
        try:
            more = os.read(self._terminal, 65536) if readable(self._terminal, timeout) else b""
        except OSError:
            # The other side of a terminal that nobody has open any more.
            more = b""
        self._shown += more
        return bool(more)


@contextmanager
def on_terminal(home: Path, key: str | None, *arguments: str | Path) -> Iterator[OnTerminal]:
    """Runs `jobfs ARGUMENTS`; it and its terminal are gone afterwards."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "jobfs", *map(str, arguments)],
        env={**environment(home, key), "COLUMNS": "120"},
        stdin=there,
        stdout=there,
        stderr=there,
        cwd=home,
    )
    os.close(there)
    try:
        yield OnTerminal(process, here)
    finally:
        process.kill()
        process.wait()
        os.close(here)

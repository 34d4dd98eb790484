"""A program in a terminal of its own, driven by keys: interactive editors, and commands that need a terminal."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mounts import environment
from .waiting import PATIENCE, eventually

_numbers = itertools.count(1)


class Terminal:
    """A running program: `keys` sends keys (by tmux's names), `shows` waits for a text or a pattern on the screen."""

    def __init__(self, socket: Path, home: Path, key: str | None) -> None:
        self._socket = socket
        self._environment = environment(home, key)

    def tmux(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=20)

    def keys(self, *keys: str) -> None:
        done = self.tmux("send-keys", *keys)
        assert done.returncode == 0, done.stderr

    def type(self, text: str) -> None:
        self.keys("-l", text)

    def lines(self, *texts: str) -> None:
        """Type each text, and press Enter after it."""
        for text in texts:
            if text:
                self.type(text)
            self.keys("Enter")

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p", "-J").stdout

    def shows(self, text: str | re.Pattern[str], timeout: float = PATIENCE) -> re.Match[str]:
        wanted = re.compile(re.escape(text)) if isinstance(text, str) else text
        found = eventually(
            lambda: wanted.search(self.screen()), lambda: f"{wanted} on the screen: {self.screen()}", timeout
        )
        assert found is not None
        return found

    def wait_for_exit_code(self) -> int:
        """Return the exit code of a command (`on_terminal`)."""
        return int(self.shows(re.compile(r"ended: (\d+)\s"), 2 * PATIENCE)[1])

    def ends(self) -> None:
        eventually(lambda: self.tmux("has-session").returncode, lambda: f"it still shows {self.screen()}")


@contextmanager
def terminal(home: Path, cwd: Path, *command: str, key: str | None = None) -> Iterator[Terminal]:
    """Start `command` in `cwd`; end it and its terminal afterwards."""
    # A socket of its own: the tmux server of the previous terminal may still be about to end.
    terminal = Terminal(home / f"tmux{next(_numbers)}", home, key)
    inside = "exec " + shlex.join(["env", "-C", str(cwd), *command])
    done = terminal.tmux("new-session", "-d", "-x", "200", "-y", "50", inside)
    assert done.returncode == 0, done.stderr
    try:
        yield terminal
    finally:
        terminal.tmux("kill-server")


@contextmanager
def on_terminal(home: Path, *arguments: str | Path, key: str | None = None) -> Iterator[Terminal]:
    """Run `jobfs ARGUMENTS`, which Ctrl-C interrupts; end it and its terminal afterwards."""
    command = shlex.join([sys.executable, "-m", "jobfs", *map(str, arguments)])
    script = f"trap : INT; {command}; echo ended: $?; exec cat"
    with terminal(home, home, "sh", "-c", script, key=key) as running:
        yield running

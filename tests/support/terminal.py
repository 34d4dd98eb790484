"""A program in a terminal of its own, driven by keys, for editors that want a person."""

from __future__ import annotations

import itertools
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .mounts import environment
from .waiting import eventually

_numbers = itertools.count(1)


class Terminal:
    """A running program: `keys` types (tmux's names for keys), `shows` waits for a text on the screen."""

    def __init__(self, socket: Path, home: Path) -> None:
        self._socket = socket
        self._environment = environment(home, None)

    def tmux(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=20,
        )

    def keys(self, *keys: str) -> None:
        done = self.tmux("send-keys", *keys)
        assert done.returncode == 0, done.stderr

    def type(self, text: str) -> None:
        self.keys("-l", text)

    def lines(self, *texts: str) -> None:
        """Types each text and presses Enter after it."""
        for text in texts:
            if text:
                self.type(text)
            self.keys("Enter")

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p").stdout

    def shows(self, text: str) -> None:
        eventually(lambda: text in self.screen(), lambda: f"{text!r} on the screen: {self.screen()}")

    def pid(self) -> int:
        return int(self.tmux("display-message", "-p", "#{pane_pid}").stdout)

    def ends(self) -> None:
        eventually(
            lambda: self.tmux("has-session").returncode != 0,
            lambda: f"the program still shows {self.screen()}",
        )


@contextmanager
def terminal(home: Path, cwd: Path, *command: str) -> Iterator[Terminal]:
    """Starts `command` in `cwd`; it and its terminal are gone afterwards."""
    # A socket of its own: the server of the terminal before may be still about to end.
    terminal = Terminal(home / f"tmux{next(_numbers)}", home)
    inside = "exec " + shlex.join(["env", "-C", str(cwd), *command])
    done = terminal.tmux("new-session", "-d", "-x", "100", "-y", "30", inside)
    assert done.returncode == 0, done.stderr
    try:
        yield terminal
    finally:
        terminal.tmux("kill-server")

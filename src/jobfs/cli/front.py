"""Where a starting mount tells things: to this terminal, or to the command that put it in the background."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from jobfs.cli import logs
from jobfs.cli.screen import tell
from jobfs.errors import JobfsError, UsageError


class Front(Protocol):
    """What a starting mount needs to tell."""

    def say(self, text: str) -> None:
        """Show a sentence on stderr."""

    def keep_log(self, path: Path) -> None:
        """From now on what is logged or printed goes to `path`, if it has nowhere better to go."""

    def ready(self, text: str) -> None:
        """The mount answers; `text` is the one line that says so on stdout."""


class Terminal:
    """The front of a mount in the foreground."""

    def say(self, text: str) -> None:
        """Show a sentence on stderr."""
        logs.say(text)

    def keep_log(self, path: Path) -> None:
        """Nothing: the terminal is the log."""

    def ready(self, text: str) -> None:
        """Print the line."""
        tell(text)


class _Pipe:
    """The front of a mount in the background: JSON lines to the command that waits for it."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle
        self._log: Path | None = None

    def say(self, text: str) -> None:
        if self._handle is None:
            logs.say(text)
        else:
            self._send("say", text)

    def keep_log(self, path: Path) -> None:
        if logs.keep_in(path):
            self._log = path

    def ready(self, text: str) -> None:
        self._send("ready", f"{text}; its log is {self._log}" if self._log else text)
        self._hang_up()

    def failed(self, text: str, code: int) -> None:
        if self._handle is not None:
            self._send("failed", text, code)
            self._hang_up()
        else:
            logs.say(text)

    def _send(self, kind: str, text: str, code: int = 0) -> None:
        assert self._handle is not None
        os.write(self._handle, json.dumps([kind, text, code]).encode() + b"\n")

    def _hang_up(self) -> None:
        assert self._handle is not None
        os.close(self._handle)
        self._handle = None


def in_background(serve: Callable[[Front], int]) -> int:
    """Run `serve` in a new process of its own session; the exit code once that is ready or has failed.

    To be called before the first thread: only the calling one goes along.
    """
    hear, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        return _wait(hear, child)
    os.close(hear)
    os.setsid()
    os.chdir("/")
    _detach_input()
    front = _Pipe(tell)
    code = 70
    try:
        code = serve(front)
    except JobfsError as error:
        code = 2 if isinstance(error, UsageError) else 1
        front.failed(str(error), code)
    except BrokenPipeError:
        pass  # the waiting command was stopped, and so the mount is not wanted any more
    except Exception as error:
        front.failed(f"unexpected {type(error).__name__}: {error}", code)
    finally:
        os._exit(code)


def _wait(hear: int, child: int) -> int:
    try:
        with os.fdopen(hear, encoding="utf-8") as lines:
            for line in lines:
                kind, text, code = json.loads(line)
                if kind == "say":
                    tell(f"jobfs: {text}", err=True)
                elif kind == "ready":
                    tell(text)
                    return 0
                else:
                    tell(f"jobfs: {text}", err=True)
                    return int(code)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    raise JobfsError("the mount ended before it answered: try --foreground to see why")


def _detach_input() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)

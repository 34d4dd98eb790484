"""A `/proc` that a test fills, for modules that read which process is whose parent."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


class FakeProc:
    """A `/proc` in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        #: Numbers of processes that are not there.
        self.strangers = itertools.count(10_000_000)

    def add(self, number: int, parent: int, *, group: int = 0, start: int = 7) -> None:
        """A thread appears, of the process `group` or of its own; or a process gets another parent."""
        there = f"{self.directory}/{number}"
        os.makedirs(there, exist_ok=True)
        stat = f"{number} (a b) \xe9) S {parent} " + "0 " * 17 + f"{start} 0\n"
        status = f"Name:\ta b) \xe9\nTgid:\t{group or number}\nNgid:\t0\nPid:\t{number}\n"
        for name, text in (("status", status), ("stat", stat)):
            with open(f"{there}/{name}", "w", encoding="latin-1") as file:
                file.write(text)

    def end(self, number: int) -> None:
        """A process ends. Its children, if any, keep it as their parent if they have been seen."""
        for name in ("status", "stat"):
            os.unlink(f"{self.directory}/{number}/{name}")
        os.rmdir(f"{self.directory}/{number}")

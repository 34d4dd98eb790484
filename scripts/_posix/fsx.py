"""fsx on a mount: one seed a mount, and the same bytes through a second one."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .stage import Stage

#: 1 operation in 10 is followed by a close and an open.
_OPTIONS = ("-N", "10000", "-c", "10")
#: Seconds for one seed.
_PATIENCE = 1200.0


def run(program: Path, stage: Stage, seed: int, notes: Path, environment: Mapping[str, str]) -> str:
    """Run one seed, and compare the file with what a second mount reads; returns what was wrong, empty if nothing was.

    `notes` is where fsx keeps its log and, after a failure, the right content.
    """
    name = f"fsx-{seed}"
    with stage.mount() as directory:
        wrong = exercise(
            [str(program), "-S", str(seed), *_OPTIONS, "-P", str(notes), name], directory, environment
        )
        if wrong:
            return wrong
        written = _digest(directory / name)
    with stage.mount() as directory:
        read = _digest(directory / name)
    return "" if read == written else "a second mount reads other bytes"


def exercise(command: list[str], directory: Path, environment: Mapping[str, str]) -> str:
    """Run fsx in `directory`; returns its first finding, empty if there was none."""
    try:
        done = subprocess.run(
            command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=_PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done within {_PATIENCE:.0f} s"
    if done.returncode == 0:
        return ""
    finding = next((line for line in done.stdout.splitlines() if _tells(line)), "")
    return f"fsx ended with {done.returncode}: {finding}"


def _tells(line: str) -> bool:
    return not line.startswith(("skipping", "truncating to largest", "Chance of", "Seed set"))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

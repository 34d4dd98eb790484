"""Trees that are removed: by one program, by two at once, and while one still holds a directory of them open."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.mounts import MountedJob, run
from tests.support.serverside import hidden, visible
from tests.support.waiting import eventually

from jobfs.emulator import Server


def removing(root: Path, *names: str) -> subprocess.Popen[str]:
    """Begins `rm -rf`."""
    command = ["env", "-C", str(root), "rm", "-rf", *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_tree_is_removed_without_an_error_and_nothing_is_left(
    server: Server, mounted: MountedJob, at_once: int
) -> None:
    """vfs/semantics.md 4.29, save/protocol.md R12: an item of ours that is gone, or going, is nobody's content."""
    root = mounted.path
    others = {f"other/f{number}": b"stays" for number in range(300)}
    server.store.seed(others, age=60)
    # What was moved away goes at any moment while what is above it is looked at.
    server.faults.rate("slow", 0.5, on="delete", delay=0.05)
    for _ in range(2):
        run(root, "bash", "-c", "mkdir -p w/{1..12}/{a..d}/e/f")
        programs = [removing(root, "w") for _ in range(at_once)]
        assert [(program.communicate(timeout=60)[0], program.returncode) for program in programs] == [
            ("", 0)
        ] * at_once
        assert os.listdir(root) == ["other"]
    eventually(lambda: not hidden(server), lambda: f"{hidden(server)}\n{mounted.log}")
    assert visible(server) == {"other": None, **others}
    assert "it is back" not in mounted.log

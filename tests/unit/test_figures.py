"""`scripts/figures` of a revision whose tree does not run with the packages that are installed now."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.recipes import ROOT

#: What the fixture `figures` gives.
pytestmark = pytest.mark.needs_program("git")

Figures = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    """Runs the figures in a repository whose only revision needs a package that nobody has."""
    for name, text in (
        ("src/jobfs/__init__.py", "import a_package_of_old_times\n\n\ndef function():\n    pass\n"),
        ("tests/support/__init__.py", ""),
        ("tests/support/waiting.py", "import jobfs\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "old"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT, tmp_path / "scripts")))
    command = [sys.executable, "-m", "_figures"]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    return lambda *words: subprocess.run([*command, *words], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("more", [[], ["--cpu"]])
def test_an_old_revision_that_does_not_run_is_only_read(figures: Figures, more: list[str]) -> None:
    done = figures("--of", "HEAD", *more)
    assert (done.returncode, done.stderr) == (0, "")
    why = "ModuleNotFoundError: No module named 'a_package_of_old_times'"
    assert f"Only what is read off the source: HEAD does not run here ({why}).\n" in done.stdout
    (lines,) = [line for line in done.stdout.splitlines() if "without the emulator" in line]
    assert lines.split("│")[-2].strip() == "5"


def test_the_current_tree_must_run(figures: Figures) -> None:
    done = figures()
    assert (done.returncode, "Traceback" in done.stderr) == (1, True)

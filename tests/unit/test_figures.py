"""`scripts/figures` of a revision whose tree does not run with the packages that are installed now."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support.recipes import ROOT

from _figures import __main__ as figures


@pytest.fixture
def revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository in place of this one, whose only revision needs a package that nobody has."""
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
    monkeypatch.setattr(figures, "_ROOT", tmp_path)
    return "HEAD"


@pytest.mark.parametrize("more", [[], ["--cpu"]])
def test_an_old_revision_that_does_not_run_is_only_read(revision: str, more: list[str]) -> None:
    done = CliRunner().invoke(figures.figures, ["--of", revision, *more])
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    why = "ModuleNotFoundError: No module named 'a_package_of_old_times'"
    assert f"Only what is read off the source: HEAD does not run here ({why}).\n" in done.output
    (lines,) = [line for line in done.output.splitlines() if "without the emulator" in line]
    assert lines.split("│")[-2].strip() == "5"


def test_the_current_tree_must_run(revision: str) -> None:
    done = CliRunner().invoke(figures.figures)
    assert (done.exit_code, "Traceback" in done.output) == (1, True)

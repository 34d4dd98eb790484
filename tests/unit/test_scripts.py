"""`scripts/test`: a file that is named is tested at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.recipes import ROOT


@pytest.mark.parametrize("words", [[], ["tests/test_one.py"]])
def test_scripts_test_skips_lint_if_a_file_is_named(tmp_path: Path, words: list[str]) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_one.py").write_text("def test_it(): pass")
    shutil.copy(ROOT / "scripts/test", scripts)
    (scripts / "_setup").write_text("setup() { :; }\nrequire_dev_fuse() { :; }\n")
    (scripts / "lint").write_text("#!/bin/sh\necho Lint.\n")
    (scripts / "lint").chmod(0o700)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTEST_ADDOPTS": "-p no:schemathesis"}  # slow to import
    done = subprocess.run(
        ["scripts/test", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    found = done.returncode, "Lint." in done.stdout, "1 passed" in done.stdout
    assert found == (0, not words, True), done.stdout + done.stderr

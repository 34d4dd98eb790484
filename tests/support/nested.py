"""Tests run by a test: in another pytest, with an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .environment import fresh

_ROOT = Path(__file__).parents[2]


def run_tests(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with these arguments, and these variables in addition to a fresh environment; its outputs are captured."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *words],
        env={**fresh(home), **variables},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )

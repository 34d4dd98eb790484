"""scripts/bench measures: a workload goes through its relay, its server and real mounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_each_run_begins_with_the_data_as_they_were_made_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """The index that `git status` has written would spare the next run the reading of all files."""
    lab, out = tmp_path / "lab", tmp_path / "out.json"
    lab.mkdir()
    words = ["--rtt", "1", "--runs", "2", "--peers", "none", "--json", str(out), "git"]
    done = subprocess.run(
        [sys.executable, "-m", "_bench", *words],
        env={**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT / 'scripts'}", "TMPDIR": str(lab)},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["row"]: row["systems"] for row in json.loads(out.read_text())["rows"]}
    assert [run["requests"] > 200 for run in rows["git"]["jobfs"]["runs"]] == [True, True]
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()

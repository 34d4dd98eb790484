"""scripts/bench measures: one small workload of each kind goes through its relay, its server and real mounts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def bench(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = f"{_ROOT / 'src'}:{_ROOT / 'scripts'}"
    return subprocess.run(
        [sys.executable, "-m", "_bench", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_bench_measures_a_tree_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lab, out = tmp_path / "lab", tmp_path / "out.json"
    lab.mkdir()
    done = bench(lab, "--quick", "--rtt", "20", "--peers", "none", "--json", str(out), "ls", "save")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["row"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"ls", "ls-warm", "save"}
    assert rows["ls"]["systems"]["jobfs"]["median"] >= 0.02, "the line has a round trip of 20 ms"
    assert rows["ls"]["systems"]["jobfs"]["requests"] >= 1
    assert rows["ls-warm"]["systems"]["floor"]["median"] > 0
    assert "ls -lR, cold" in done.stdout
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()


def test_each_run_begins_with_the_data_as_they_were_made(tmp_path: Path) -> None:
    """What `git status` has written into the index of the repository would save the next run all its files."""
    lab, out = tmp_path / "lab", tmp_path / "out.json"
    lab.mkdir()
    done = bench(lab, "--rtt", "1", "--runs", "2", "--peers", "none", "--json", str(out), "git")
    assert done.returncode == 0, done.stdout + done.stderr
    (cold,) = (row for row in json.loads(out.read_text())["rows"] if row["row"] == "git")
    assert [run["requests"] > 200 for run in cold["systems"]["jobfs"]["runs"]] == [True, True]

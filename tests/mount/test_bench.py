"""scripts/bench measures: a workload goes through its relay, its server and real mounts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

_ROOT = Path(__file__).parents[2]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "_bench", *words]


def _environment(lab: Path) -> dict[str, str]:
    """What the bench runs with; its temporary files are in `lab`."""
    return {**os.environ, "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT / 'scripts'}", "TMPDIR": str(lab)}


@pytest.mark.needs_fuse
def test_each_run_starts_with_fresh_data_and_leaves_nothing(tmp_path: Path) -> None:
    """The index that `git status` has written would spare the next run the reading of all files."""
    lab, out = tmp_path / "lab", tmp_path / "out.json"
    lab.mkdir()
    words = ["--rtt", "1", "--runs", "2", "--peers", "none", "--json", str(out), "git"]
    done = subprocess.run(_command(*words), env=_environment(lab), capture_output=True, text=True, timeout=80)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["row"]: row["systems"] for row in json.loads(out.read_text())["rows"]}
    assert [run["requests"] > 200 for run in rows["git"]["jobfs"]["runs"]] == [True, True]
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.needs_fuse
def test_an_interrupted_bench_prints_the_table_of_its_rows(tmp_path: Path) -> None:
    lab, rtts = tmp_path / "lab", ",".join(map(str, range(1, 31)))  # more than it gets to
    lab.mkdir()
    words = ["ls", "--quick", "--peers", "none", "--rtt", rtts]
    with subprocess.Popen(
        _command(*words), env=_environment(lab), stdout=PIPE, stderr=PIPE, text=True
    ) as bench:
        assert bench.stdout is not None
        first = bench.stdout.readline()
        bench.send_signal(signal.SIGINT)
        rest, errors = bench.communicate(timeout=80)
    assert bench.returncode == 128 + signal.SIGINT, rest + errors
    assert re.match(r"ls -lR, cold at 1 ms: jobfs .*, req \d+, ", first), first + errors
    table = [row.split("│")[1:3] for row in rest.partition("jobfs bench")[2].splitlines() if "│" in row]
    assert ["ls -lR, cold", "1"] in [[cell.strip() for cell in row] for row in table], rest
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()

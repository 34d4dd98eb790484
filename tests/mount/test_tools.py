"""scripts/bench measures, and scripts/posix compares: both with real mounts, of which they leave nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import pytest
from tests.support.recipes import ROOT

pytestmark = pytest.mark.needs_fuse


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    """The directory for a script's temporary files; afterwards nothing may be there."""
    lab = tmp_path / "lab"
    lab.mkdir()
    yield lab
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()


def script(lab: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a script of this project, with its temporary files in `lab`."""
    more = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'scripts'}", "TMPDIR": str(lab), **variables}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, env={**os.environ, **more}, stdout=PIPE, stderr=PIPE, text=True)


@pytest.mark.needs_program("git")
def test_each_run_of_a_bench_starts_with_fresh_data(lab: Path, tmp_path: Path) -> None:
    """The index that `git status` has written would spare the next run the reading of all files."""
    out = tmp_path / "out.json"
    words = ["--rtt", "1", "--runs", "2", "--peers", "none", "--json", str(out), "git"]
    with script(lab, "_bench", *words) as bench:
        said = bench.communicate(timeout=80)
    assert bench.returncode == 0, said
    rows = {row["row"]: row["systems"] for row in json.loads(out.read_text())["rows"]}
    assert [run["requests"] > 200 for run in rows["git"]["jobfs"]["runs"]] == [True, True]


def test_an_interrupted_bench_prints_the_table_of_its_rows(lab: Path) -> None:
    rtts = ",".join(map(str, range(1, 31)))  # more than it gets to
    with script(lab, "_bench", "ls", "--quick", "--peers", "none", "--rtt", rtts) as bench:
        assert bench.stdout is not None
        first = bench.stdout.readline()
        bench.send_signal(signal.SIGINT)
        rest, errors = bench.communicate(timeout=80)
    assert bench.returncode == 128 + signal.SIGINT, rest + errors
    assert re.match(r"ls -lR, cold at 1 ms: jobfs .*, req \d+, ", first), first + errors
    table = [row.split("│")[1:3] for row in rest.partition("jobfs bench")[2].splitlines() if "│" in row]
    assert ["ls -lR, cold", "1"] in [[cell.strip() for cell in row] for row in table], rest


#: An imitation of pjdfstest. Of tests/link/02.t the list has the assertions 2 and 4 to 6.
_LINK = """\
echo 1..6
touch file && echo ok 1
ln file other 2>/dev/null && echo ok 2 || echo not ok 2 - no links
ln -s file link && [ -L link ] && echo ok 3
for number in 4 5 6; do echo not ok $number; done
"""
_OPEN = """\
echo 1..2
echo secret >file; chmod 0600 file; chown 65534:65534 file
setpriv --reuid 65534 --regid 65534 --clear-groups cat file >/dev/null && echo ok 1
setpriv --reuid 65533 --regid 65533 --clear-groups cat file >/dev/null && echo ok 2 || echo not ok 2 - EACCES
"""


@pytest.mark.needs_root("only root can let other users into a mount")
def test_failures_of_pjdfstest_are_compared_with_the_list(lab: Path, tmp_path: Path) -> None:
    """Its files run on a mount, as several users."""
    lines = [
        "tests/link/02.t: 6 assertions, 4 fail as expected",
        "tests/open/00.t: 2 assertions", "  NEW  2: EACCES", "  the list would be  tests/open/00.t: 2",
        "pjdfstest: 2 files, 8 assertions, 4 fail as expected, 1 new, 0 gone;",
    ]  # fmt: skip
    clone = tmp_path / "clone"
    texts = {"pjdfstest.c": "", "tests/misc.sh": "", "tests/link/02.t": _LINK, "tests/open/00.t": _OPEN}
    for name, text in {**texts, "pjdfstest": "", "bin/openssl": "#!/bin/sh\n"}.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    (clone / "bin/openssl").chmod(0o755)
    words = ("_posix", str(clone), "--only", "link", "--only", "open", "--jobs", "1")
    with script(lab, *words, PATH=f"{os.environ['PATH']}:{clone / 'bin'}") as posix:
        out, errors = posix.communicate(timeout=80)
    assert posix.returncode == 1, out + errors
    *shown, last = out.splitlines()
    assert [*shown, last.rpartition(" ")[0].rpartition(" ")[0]] == lines

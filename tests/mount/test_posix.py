"""`scripts/posix` with an imitation of pjdfstest: its files run on a mount, as several users, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.recipes import ROOT

pytestmark = [pytest.mark.needs_fuse, pytest.mark.needs_root("only root can let other users into a mount")]

#: Of tests/link/02.t the list has the assertions 2 and 4 to 6.
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


def test_the_failures_on_a_mount_are_compared_with_the_list(tmp_path: Path) -> None:
    lines = [
        "tests/link/02.t: 6 assertions, 4 fail as expected",
        "tests/open/00.t: 2 assertions", "  NEW  2: EACCES", "  the list would be  tests/open/00.t: 2",
        "pjdfstest: 2 files, 8 assertions, 4 fail as expected, 1 new, 0 gone;",
    ]  # fmt: skip
    clone, lab = tmp_path / "clone", tmp_path / "lab"
    lab.mkdir()
    texts = {"pjdfstest.c": "", "tests/misc.sh": "", "tests/link/02.t": _LINK, "tests/open/00.t": _OPEN}
    for name, text in {**texts, "pjdfstest": "", "bin/openssl": "#!/bin/sh\n"}.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    (clone / "bin/openssl").chmod(0o755)
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'scripts'}", "TMPDIR": str(lab),
        "PATH": f"{os.environ['PATH']}:{clone / 'bin'}",
    }  # fmt: skip
    command = [sys.executable, "-m", "_posix", str(clone), "--only", "link", "--only", "open", "--jobs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=80)
    assert done.returncode == 1, done.stdout + done.stderr
    *shown, last = done.stdout.splitlines()
    assert [*shown, last.rpartition(" ")[0].rpartition(" ")[0]] == lines
    assert not list(lab.iterdir())
    assert str(lab) not in Path("/proc/self/mountinfo").read_text()

"""The environment of the tests, of this process and every program that it starts; nothing else is taken from the caller.

So no variable that a developer or a machine has set makes a test pass or fail.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: The caller's variables that are kept: where programs and temporary files are, and the mark by which `scripts/test` finds
#: processes that the tests leave running.
_KEPT = ("PATH", "TMPDIR", "TESTS_RUN_IN")
#: The prefix of the caller's variables for the tests, and their prefix in this process: jobfs would report the first as unknown
#: settings.
_ASKED, _ASKED_HERE = "JOBFS_TEST_", "TESTS_"


def fresh(home: Path) -> dict[str, str]:
    """Return a new environment with this home directory, which is made if it is missing."""
    (home / "run").mkdir(parents=True, exist_ok=True, mode=0o700)
    user = _user()
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "XDG_RUNTIME_DIR": str(home / "run"),
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def read_test_variable(name: str) -> str:
    """Return the value of `JOBFS_TEST_<name>` that the caller of the tests set, or ""."""
    return os.environ.get(_ASKED_HERE + name, "")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a user id without a name
        return str(os.getuid())


def replace_environment() -> None:
    """Replace this process's environment with a fresh one, whose empty home lasts as long as the process. Reset its umask."""
    kept = {name: value for name, value in os.environ.items() if name.startswith((_ASKED_HERE, "PYTEST_"))}
    for name, value in os.environ.items():
        if name.startswith(_ASKED):
            kept[_ASKED_HERE + name.removeprefix(_ASKED)] = value
    home = Path(tempfile.mkdtemp(prefix="jobfs-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    new = fresh(home) | kept
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(new)
    time.tzset()


def run_tests(home: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run another pytest with these arguments, and these variables in addition to a fresh environment."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]  # that is slow to import
    command = [sys.executable, "-m", "pytest", *options, *words]
    env, root = {**fresh(home), **variables}, Path(__file__).parents[2]
    return subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=200)

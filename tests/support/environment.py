"""The one environment of the tests: this process has it, and every program that it starts; nothing else of the caller's.

So no variable that a developer or a machine has set makes a test pass or fail.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import tempfile
import time
from pathlib import Path

#: Of the caller: where programs and temporary files are, and the mark by which `scripts/test` finds what the tests leave running.
_KEPT = ("PATH", "TMPDIR", "TESTS_RUN_IN")
#: How variables of a caller begin that are for the tests themselves. jobfs would name them as settings that it does not know, so
#: they have another name in this process.
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


def asked(name: str) -> str:
    """Return the value of `JOBFS_TEST_<name>` as the caller of the tests has set it, or ""."""
    return os.environ.get(_ASKED_HERE + name, "")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number that has no name
        return str(os.getuid())


def shed() -> None:
    """Replace this process's environment by a fresh one, with an empty home that lasts as long as the process; its umask, too."""
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

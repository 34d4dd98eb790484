"""No variable of the caller has a part in a test (tests/support/environment.py)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.environment import run_tests
from tests.support.mounts import environment, run

#: What developers and machines set, by which a program behaves otherwise.
HOSTILE = {
    "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": "/nowhere", "LC_ALL": "POSIX", "LANG": "POSIX",
    "TZ": "Pacific/Chatham", "TERM": "dumb", "http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9",
    "EDITOR": "false", "PAGER": "false", "GIT_DIR": "/nowhere", "GIT_EDITOR": "false", "XDG_STATE_HOME": "/nowhere",
    "XDG_CACHE_HOME": "/nowhere", "JOBFS_TTL": "3000", "JOBFS_TEST_NEEDS_ALL": "0", "PERSTACK_API_KEY": "wrong",
    "NOTIFY_SOCKET": "/nowhere", "HOME": "/nowhere",
}  # fmt: skip
#: What a caller may set for the tests, and what each environment has.
_NAMES = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "XDG_RUNTIME_DIR", "GIT_CONFIG_NOSYSTEM"}
_MARKS = {"TMPDIR", "TESTS_RUN_IN"}


def test_tests_and_their_programs_have_a_fresh_environment(tmp_path: Path) -> None:
    here = {name for name in os.environ if not name.startswith(("PYTEST_", "TESTS_"))}
    assert here - _MARKS == _NAMES
    assert set(environment(tmp_path, None)) - _MARKS == _NAMES | {"PYTHONPATH"}
    assert os.environ["LANG"] == environment(tmp_path, None)["LANG"] == "C.UTF-8"
    assert time.localtime(0).tm_gmtoff == time.localtime(0).tm_hour * 3600
    printed = run(tmp_path, "env", home=tmp_path)
    names = {line.partition("=")[0] for line in printed.splitlines()}
    assert names - _MARKS == _NAMES | {"PYTHONPATH"}


def test_no_variable_of_the_caller_reaches_a_test_or_its_programs(tmp_path: Path) -> None:
    fresh = (
        f"tests/unit/test_environment.py::{test_tests_and_their_programs_have_a_fresh_environment.__name__}"
    )
    done = run_tests(tmp_path, fresh, "tests/unit/cli/test_logs.py", **HOSTILE)
    assert done.returncode == 0, done.stdout + done.stderr

"""No variable of the caller has a part in a test (tests/support/environment.py)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.mounts import environment, run
from tests.support.nested import run_tests

#: What developers and machines set, by which a program behaves otherwise.
HOSTILE = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONPATH": "/nowhere",
    "LC_ALL": "POSIX",
    "LANG": "POSIX",
    "TZ": "Pacific/Chatham",
    "TERM": "dumb",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "EDITOR": "false",
    "PAGER": "false",
    "GIT_DIR": "/nowhere",
    "GIT_EDITOR": "false",
    "XDG_STATE_HOME": "/nowhere",
    "XDG_CACHE_HOME": "/nowhere",
    "JOBFS_TTL": "3000",
    "JOBFS_TEST_NEEDS_FUSE": "0",
    "PERSTACK_API_KEY": "wrong",
    "NOTIFY_SOCKET": "/nowhere",
    "HOME": "/nowhere",
}
#: What a caller may set for the tests, and what each environment has.
_NAMES = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TERM", "XDG_RUNTIME_DIR", "GIT_CONFIG_NOSYSTEM"}
_MARKS = {"TMPDIR", "TESTS_RUN_IN"}
#: Tests whose programs ask for a time zone, a language, an editor, a proxy, git's directories or directories of the user.
_SENSITIVE = (
    "tests/unit/test_environment.py::test_tests_and_their_programs_have_a_fresh_environment",
    "tests/unit/cli/test_screen.py",
    "tests/unit/cli/test_logs.py",
    "tests/unit/cli/test_status.py",
    "tests/unit/api/test_access.py",
    "tests/unit/test_settings.py",
    "tests/component/vfs/test_report.py",
)
_MOUNTING = (
    "tests/mount/test_service.py::test_a_mount_ends_cleanly_after_the_reader_of_its_output_is_gone",
    "tests/mount/test_view.py",
)


def test_tests_and_their_programs_have_a_fresh_environment(tmp_path: Path) -> None:
    here = {name for name in os.environ if not name.startswith(("PYTEST_", "TESTS_"))}
    assert here - _MARKS == _NAMES
    assert set(environment(tmp_path, None)) - _MARKS == _NAMES | {"PYTHONPATH"}
    assert os.environ["LANG"] == environment(tmp_path, None)["LANG"] == "C.UTF-8"
    assert time.localtime(0).tm_gmtoff == time.localtime(0).tm_hour * 3600
    printed = run(tmp_path, "env", home=tmp_path)
    names = {line.partition("=")[0] for line in printed.splitlines()}
    assert names - _MARKS == _NAMES | {"PYTHONPATH"}


def test_tests_pass_with_any_variables_of_the_caller(tmp_path: Path) -> None:
    done = run_tests(tmp_path, *_SENSITIVE, *_MOUNTING, **HOSTILE)
    assert done.returncode == 0, done.stdout + done.stderr

"""What a machine does not allow is left out, said at the start and counted in the last line (tests/support/machine.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.environment import run_tests
from tests.support.machine import why_left_out

#: Tests that mount, and tests that need nothing.
_SELECTION = "tests/mount/test_promises.py", "tests/unit/test_nodes.py"


@pytest.mark.parametrize(
    ("device", "why", "workers"),
    [("missing", "No such file or directory", ()), ("", "Is a directory", ("--numprocesses", "2"))],
    ids=["missing", "can't be opened, with workers"],
)
def test_tests_that_mount_are_skipped_and_counted_without_the_device(
    tmp_path: Path, device: str, why: str, workers: tuple[str, ...]
) -> None:
    path = tmp_path / device  # a directory can't be opened, not even by root
    done = run_tests(tmp_path / "home", *_SELECTION, *workers, JOBFS_TEST_FUSE_DEVICE=str(path))
    lines = done.stdout.splitlines()
    reason = f"no mount is possible here: {path} can't be opened ({why})"
    assert done.returncode == 0, done.stdout
    assert lines[0] == f"{reason}; the tests that mount are left out"
    *_, summed, last = lines
    left_out = int(last.removeprefix("left out: ").partition(" ")[0])
    assert last == f"left out: {left_out} tests: {reason}"
    assert left_out > 1
    assert f" passed, {left_out} skipped in " in summed


def test_a_test_that_needs_root_is_skipped_for_an_ordinary_user(request: pytest.FixtureRequest) -> None:
    item: pytest.Item = request.node
    item.add_marker(pytest.mark.needs_root("only root may"))
    assert why_left_out(item, is_root=True) == ""
    assert why_left_out(item, is_root=False) == "needs root: only root may"


def test_a_run_that_must_mount_fails_at_once_without_the_device(tmp_path: Path) -> None:
    done = run_tests(
        tmp_path / "home", *_SELECTION, JOBFS_TEST_FUSE_DEVICE=str(tmp_path), JOBFS_TEST_NEEDS_FUSE="1"
    )
    assert done.returncode != 0
    reason = f"no mount is possible here: {tmp_path} can't be opened (Is a directory)"
    assert reason in done.stdout + done.stderr
    assert "passed" not in done.stdout

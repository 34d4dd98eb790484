"""What a machine does not allow is skipped, and counted in the last lines (tests/support/machine.py)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.support.environment import run_tests
from tests.support.machine import StandIns, named_programs, why_skipped

#: Tests that mount, and tests that need nothing.
_SELECTION = "tests/mount/test_promises.py", "tests/unit/test_nodes.py"
#: A test for each of four shells, of which every system has the first.
_SHELLS = "tests/unit/test_names.py", "-k", "one_word"


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
    assert lines[0] == f"{reason}; the tests that mount are skipped"
    *_, summed, last = lines
    skipped = int(last.partition(" ")[0])
    assert last == f"{skipped} tests skipped, because {reason}"
    assert skipped > 1
    assert f" passed, {skipped} skipped in " in summed


def test_a_test_that_needs_root_is_skipped_for_an_ordinary_user(request: pytest.FixtureRequest) -> None:
    item: pytest.Item = request.node
    item.add_marker(pytest.mark.needs_root("only root may"))
    assert why_skipped(item, is_root=True) == ""
    assert why_skipped(item, is_root=False) == "root is needed: only root may"


@pytest.mark.parametrize("workers", [(), ("--numprocesses", "2")], ids=["alone", "with workers"])
def test_tests_of_missing_programs_are_skipped_and_the_programs_named(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = run_tests(tmp_path / "home", *_SHELLS, *workers, PATH=path_with_bash_only(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    *_, summed, last = done.stdout.splitlines()
    assert "1 passed, 3 skipped" in summed
    assert last == "3 tests skipped, because these programs are missing: dash, fish, zsh"


def test_a_run_that_must_have_all_fails_at_once_without_a_program(tmp_path: Path) -> None:
    path = path_with_bash_only(tmp_path)
    done = run_tests(tmp_path / "home", *_SHELLS, PATH=path, JOBFS_TEST_NEEDS_ALL="1")
    assert done.returncode != 0
    (said,) = [line for line in (done.stdout + done.stderr).splitlines() if "JOBFS_TEST_NEEDS_ALL" in line]
    assert "these programs are missing: cc, dash, ed, " in said
    assert "passed" not in done.stdout


def test_a_run_that_must_have_all_fails_at_once_without_the_device(tmp_path: Path) -> None:
    done = run_tests(
        tmp_path / "home", *_SELECTION, JOBFS_TEST_FUSE_DEVICE=str(tmp_path), JOBFS_TEST_NEEDS_ALL="1"
    )
    assert done.returncode != 0
    reason = f"no mount is possible here: {tmp_path} can't be opened (Is a directory)"
    assert reason in done.stdout + done.stderr
    assert "passed" not in done.stdout


def path_with_bash_only(place: Path) -> str:
    """Return a PATH for a run of tests: of the programs that tests drive it has none."""
    (place / "bin").mkdir()
    (place / "bin/bash").symlink_to(str(shutil.which("bash")))
    return str(place / "bin")


@pytest.mark.needs_program("git")
def test_a_test_finds_only_the_programs_that_it_names(tmp_path: Path) -> None:
    stand_ins, words = StandIns(tmp_path), ["git", "--version"]
    with stand_ins.in_place_of_all_but({"git"}):
        subprocess.run(words, check=True)
    with (
        pytest.raises(pytest.fail.Exception, match=r"does not name: needs_program\('git',\)"),
        stand_ins.in_place_of_all_but({"jq"}),
    ):
        assert subprocess.run(words).returncode == 127
    with stand_ins.in_place_of_all_but({"jq"}):
        pass  # what an earlier test has run is not counted


def test_a_named_program_is_one_that_the_scripts_install(request: pytest.FixtureRequest) -> None:
    item: pytest.Item = request.node
    item.add_marker(pytest.mark.needs_program("jq", "cobol"))
    with pytest.raises(pytest.UsageError, match="needs cobol: not in TEST_TOOLS of scripts/_setup"):
        named_programs(item)

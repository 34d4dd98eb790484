"""`scripts/test`: a file that is named is tested at once. `scripts/_setup`: what is missing is installed, named, or an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.machine import list_test_programs
from tests.support.recipes import ROOT


@pytest.mark.parametrize(
    ("words", "has_fuse"), [([], True), (["tests/test_one.py"], True), (["tests/test_one.py"], False)]
)
def test_scripts_test_skips_lint_if_a_file_is_named(tmp_path: Path, words: list[str], has_fuse: bool) -> None:
    done = _run_tests(tmp_path, *words, has_fuse=has_fuse)
    found = done.returncode, "Lint." in done.stdout, "1 passed" in done.stdout
    assert found == (0, not words, True), done.stdout + done.stderr


def test_the_whole_suite_needs_the_device(tmp_path: Path) -> None:
    done = _run_tests(tmp_path, has_fuse=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "test: no device\n")


def _run_tests(place: Path, *words: str, has_fuse: bool) -> subprocess.CompletedProcess[str]:
    """Run `scripts/test` where there is one test, and a setup that has nothing to do."""
    scripts = place / "scripts"
    scripts.mkdir()
    (place / "tests").mkdir()
    (place / "tests/test_one.py").write_text("def test_it(): pass")
    shutil.copy(ROOT / "scripts/test", scripts)
    device = ":" if has_fuse else "echo 'test: no device' >&2; exit 1"
    (scripts / "_setup").write_text(f"setup() {{ :; }}\nrequire_dev_fuse() {{ {device}; }}\n")
    (scripts / "lint").write_text("#!/bin/sh\necho Lint.\n")
    (scripts / "lint").chmod(0o700)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTEST_ADDOPTS": "-p no:schemathesis"}  # slow to import
    return subprocess.run(
        ["scripts/test", *words], cwd=place, env=environment, capture_output=True, text=True
    )


class Machine:
    """A machine with the programs in `bin` and no others: all that jobfs and its tests need, of which a test takes some away."""

    def __init__(self, place: Path) -> None:
        self.bin, self.said = place / "bin", place / "said"
        self.bin.mkdir()
        self.said.touch()
        for name in ("bash", "sh", "dirname", "env", "grep", "sed", "head", "sort"):
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in (*list_test_programs(), "fusermount", "python3"):
            self.has(name, "exit 0")
        self.has("apt-cache", "echo Version: 3.13.5-1")
        self.has("ldconfig", "echo 'libfuse.so.2 (libc6)'")
        self.has("apt-get", f'echo "$*" >>{self.said}')
        self.has("id", "echo 1000")

    def has(self, name: str, script: str) -> None:
        """Have a program that runs this script of sh."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def lacks(self, *names: str) -> None:
        """Take these programs away."""
        for name in names:
            (self.bin / name).unlink()

    def install(self) -> tuple[int, str, str]:
        """Install what is missing; return the exit code, what apt-get was asked to install, and what is said."""
        command = ["bash", "-c", f". '{ROOT}/scripts/_setup'; install_missing fuse tools"]
        done = subprocess.run(
            command, env={"PATH": str(self.bin)}, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        *_, asked = ["", *self.said.read_text().splitlines()]
        return done.returncode, asked.rpartition("--no-install-recommends ")[2], done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


#: How each user of a machine can install packages, or can't.
_MAY = {
    "root": {"id": "echo 0"},
    "sudo": {"sudo": 'shift; [ "$1" = true ] || exec "$@"'},
}
_MAY_NOT = {
    "ordinary user": {},
    "sudo with a password": {"sudo": "exit 1"},
    "root without apt-get": {"id": "echo 0", "apt-get": ""},
}


def _as(machine: Machine, user: dict[str, str]) -> None:
    for name, script in user.items():
        machine.has(name, script) if script else machine.lacks(name)


@pytest.mark.parametrize("user", _MAY.values(), ids=_MAY)
def test_what_is_missing_is_installed_once_where_that_is_possible(
    machine: Machine, user: dict[str, str]
) -> None:
    _as(machine, user)
    machine.lacks("fusermount", "nvim", "ps", "pgrep")
    said = "installing with apt-get: fuse3 neovim procps\n"
    assert machine.install() == (0, "fuse3 neovim procps", said)


@pytest.mark.parametrize("user", _MAY_NOT.values(), ids=_MAY_NOT)
def test_programs_of_tests_that_cannot_be_installed_are_named(machine: Machine, user: dict[str, str]) -> None:
    _as(machine, user)
    machine.lacks("nano", "fish")
    said = "missing, and can't be installed here: fish nano; the tests that drive them are skipped\n"
    assert machine.install() == (0, "", said)


@pytest.mark.parametrize(("missing", "packages"), [
    ("python3", "python3 python3-venv"), ("fusermount", "fuse3"), ("ldconfig", "libfuse2t64"),
])  # fmt: skip
def test_what_jobfs_needs_and_cannot_be_installed_is_an_error(
    machine: Machine, missing: str, packages: str
) -> None:
    machine.lacks(missing, "nano")
    if missing == "ldconfig":
        machine.has("ldconfig", "exit 0")
    said = f"bash: missing: {packages}; run 'apt-get install {packages}' as root\n"
    assert machine.install() == (1, "", said)


def test_nothing_is_said_where_nothing_is_missing(machine: Machine) -> None:
    assert machine.install() == (0, "", "")

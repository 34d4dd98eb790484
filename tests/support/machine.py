"""What this machine allows the tests to do: to mount, to act as root, to run programs, to use memory. Nothing else decides that.

With `JOBFS_TEST_NEEDS_ALL=1` it is an error if no mount is possible, or a program is missing; `JOBFS_TEST_FUSE_DEVICE` names
another device than `/dev/fuse`, for tests of the decision itself.

The programs that only tests drive are TEST_TOOLS of `scripts/_setup`. A test names those that it drives with the marker
`needs_program`, and finds no other one of them: in place of each other it finds a stand-in, which fails the test (`stand_ins`).
So a test that works here is skipped where one of its programs is missing.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from .environment import read_test_variable

#: The beginnings of the reasons for which tests are skipped, by which the summary counts them.
NO_MOUNT, NEEDS_ROOT, MISSING = "no mount is possible here", "root is needed", "these programs are missing"
#: The directory whose files are in memory, and the bytes that tests may need there.
MEMORY, ROOM = Path("/dev/shm"), 1 << 30


@cache
def why_no_mount() -> str:
    """Return a sentence that says why no mount is possible here, or "" if one is."""
    device = read_test_variable("FUSE_DEVICE") or "/dev/fuse"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{NO_MOUNT}: {device} can't be opened ({error.strerror})"
    return ""


@cache
def list_test_programs() -> tuple[str, ...]:
    """Return the programs that only tests drive, in alphabetical order."""
    setup = (Path(__file__).parents[2] / "scripts/_setup").read_text()
    (tools,) = re.findall(r"^TEST_TOOLS=\(\n(.*?)^\)$", setup, re.MULTILINE | re.DOTALL)
    return tuple(sorted({word.partition(":")[0] for word in tools.split()}))


@cache
def _is_missing(program: str) -> bool:
    return shutil.which(program) is None


def why_programs_are_missing(programs: Collection[str]) -> str:
    """Return a reason that names those of the programs that this machine lacks, or "" if it has all."""
    missing = sorted(filter(_is_missing, programs))
    return f"{MISSING}: {', '.join(missing)}" if missing else ""


def named_programs(item: pytest.Item) -> set[str]:
    """Return the programs that a test drives, by its markers. Raises UsageError for a program that is not in TEST_TOOLS."""
    named = {name for mark in item.iter_markers("needs_program") for name in mark.args}
    if unknown := named.difference(list_test_programs()):
        raise pytest.UsageError(
            f"{item.nodeid} needs {', '.join(sorted(unknown))}: not in TEST_TOOLS of scripts/_setup"
        )
    return named


def needing(program: str, *more: object) -> ParameterSet:
    """Return the parameters of a test that drives the first of them, a program."""
    return pytest.param(program, *more, marks=pytest.mark.needs_program(program))


class StandIns:
    """Stand-ins for programs that a test does not name: each notes that it was run, and ends as a missing program does."""

    def __init__(self, place: Path) -> None:
        self._place, self._notes = place, place / "notes"
        self._program = place / "program"
        self._notes.touch()
        self._program.write_text(
            f'#!/bin/sh\necho "${{0##*/}}" >>{shlex.quote(str(self._notes))}\nexit 127\n'
        )
        self._program.chmod(0o755)

    @contextmanager
    def in_place_of_all_but(self, named: Collection[str]) -> Iterator[None]:
        """In the block, PATH begins with stand-ins. Fails the test if one of them was run."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(self._directory(named)), prepend=os.pathsep)
            yield
        if run := set(self._notes.read_text().split()):
            self._notes.write_text("")
            pytest.fail(f"the test runs programs that it does not name: needs_program{tuple(sorted(run))}")

    def _directory(self, named: Collection[str]) -> Path:
        directory = self._place / "-".join(["all but", *sorted(named)])
        if not directory.exists():
            directory.mkdir()
            for program in set(list_test_programs()).difference(named):
                (directory / program).symlink_to(self._program)
        return directory


def must_have_all() -> bool:
    """Return whether a run without mounts, or without one of the programs, is a failure."""
    return read_test_variable("NEEDS_ALL") not in ("", "0")


def require_mount() -> None:
    """Skip the running test if no mount is possible here."""
    if reason := why_no_mount():
        pytest.skip(reason)


def has_room_in_memory() -> bool:
    """Return whether files of tests may be in memory; a container may have little of that."""
    return os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM


def require_descriptors(number: int) -> None:
    """Let this process have `number` files open; skip the running test if the machine forbids that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        pytest.skip(f"at most {hard} files may be open here, and this needs {number}")
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def why_skipped(item: pytest.Item, *, is_root: bool = os.geteuid() == 0) -> str:
    """Return why a test with the item's markers can't run here, or ""; `is_root`: as root. Raises UsageError."""
    if not is_root and (mark := item.get_closest_marker("needs_root")):
        return f"{NEEDS_ROOT}: {mark.args[0]}"
    without_mount = why_no_mount() if item.get_closest_marker("needs_fuse") else ""
    return without_mount or why_programs_are_missing(named_programs(item))

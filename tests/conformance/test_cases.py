"""The cases of system calls (texts/), a group for each call, on a disk and on a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both
from tests.support.files import errno_from

_TEXTS = sorted((Path(__file__).parent / "texts").glob("*.txt"))
CASES = [case for path in _TEXTS for case in cases(path.stem, path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calls_answer_as_on_a_disk(both: Both, case: Case) -> None:
    """vfs/semantics.md 2.8, 2.12, 2.13: owners are remembered; links, devices and pipes are EPERM (differences.py)."""
    both.compare(case)


def test_a_length_that_is_too_much_for_the_disk_is_too_much_for_the_mount(both: Both, tmp_path: Path) -> None:
    """vfs/semantics.md is silent: what was written here is a local file. ext4 does not take this length, XFS and tmpfs do."""
    (tmp_path / "long").touch()
    if errno_from(os.truncate, tmp_path / "long", 2**63 - 1):
        (case,) = cases("truncate", "long\n    create f\n    truncate f 9223372036854775807 -> EFBIG")
        both.compare(case)

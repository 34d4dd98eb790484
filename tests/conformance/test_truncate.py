"""truncate and ftruncate."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both
from tests.support.files import errno_from

CASES = cases(
    "truncate",
    r"""
a file is cut
    create f 0644 text
    truncate f 2
    stat f size                 -> 2
    get f                       -> b'te'
    truncate f 0
    get f                       -> b''

a file is extended by zeroes
    create f 0644 text
    truncate f 6
    get f                       -> b'text\x00\x00'
    truncate f 100000
    stat f size                 -> 100000

it changes both times
    create f 0644 text
    mark f
    truncate f 2
    moved f                     -> mtime ctime
    mark f
    truncate f 100
    moved f                     -> mtime ctime

to the same size it changes both times too
    create f 0644 text
    mark f
    truncate f 4
    moved f                     -> mtime ctime

through a handle
    create f 0644 text
    a = open f RDWR
    mark f
    truncate a 2
    moved f                     -> mtime ctime
    stat a size                 -> 2
    stat f size                 -> 2
    read a                      -> b'te'
    truncate a 5
    pread a 10 0                -> b'te\x00\x00\x00'

through a handle of an unlinked file
    create f 0644 text
    a = open f RDWR
    unlink f
    truncate a 2
    stat a size nlink           -> 2 0
    pread a 10 0                -> b'te'

a directory has no length
    mkdir d
    truncate d 0                -> EISDIR
    truncate d/ 0               -> EISDIR
    h = opendir d
    truncate h 0                -> EINVAL

what is not there
    create f
    truncate none 0             -> ENOENT
    truncate none/f 0           -> ENOENT
    truncate f/g 0              -> ENOTDIR
    truncate f/ 0               -> ENOTDIR

it needs write permission
    create f 0644 text
    nobody truncate f 1         -> EACCES
    chown f NOBODY NOBODY
    nobody truncate f 1
    chmod f 0555
    nobody truncate f 0         -> EACCES
    stat f size                 -> 1

a handle that can write goes on without permission
    create f 0644 text
    chown f NOBODY NOBODY
    nobody a = open f RDWR
    chown f 0 0
    nobody truncate a 2
    nobody write a T
    get f                       -> b'Te'

set-user bits go when another one truncates
    create f 0644 text
    chmod f 06777
    nobody truncate f 1
    stat f mode                 -> 0777
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_truncate_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)


def test_a_length_that_is_too_much_for_the_disk_is_too_much_for_the_mount(both: Both, tmp_path: Path) -> None:
    """semantics, silent: what was written here is a local file. ext4 does not take this length, XFS and tmpfs do."""
    (tmp_path / "long").touch()
    if errno_from(os.truncate, tmp_path / "long", 2**63 - 1):
        (case,) = cases("truncate", "long\n    create f\n    truncate f 9223372036854775807 -> EFBIG")
        both.compare(case)

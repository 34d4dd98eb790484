"""mknod, mkfifo, symlink and link: what a name can stand for."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "kinds",
    """
a regular file by mknod
    mknod f REG 0640
    stat f type mode size nlink -> - 0640 0 1
    mknod f REG                 -> EEXIST
    mkdir d
    mark d
    mknod d/f REG
    moved d                     -> mtime ctime
    mknod none/f REG            -> ENOENT
    mknod f/g REG               -> ENOTDIR
    mknod x*256 REG             -> ENAMETOOLONG

a symbolic link
    create f 0644 text
    symlink f l
    readlink l                  -> f
    get l                       -> b'text'

what is no symbolic link
    create f
    mkdir d
    readlink f                  -> EINVAL
    readlink d                  -> EINVAL
    readlink none               -> ENOENT

a hard link
    create f 0644 text
    link f g
    same f g                    -> same
    stat f nlink                -> 2

a hard link where something is
    create f
    create g
    mkdir d
    link f g                    -> EEXIST
    link f d                    -> EEXIST
    link none h                 -> ENOENT
    link d e                    -> EPERM
    link f none/g               -> ENOENT
    link f g/h                  -> ENOTDIR

a named pipe
    mkfifo p 0644
    stat p type mode            -> p 0644

a device
    mknod c CHR 0644
    stat c type                 -> c
    mknod b BLK 0644
    stat b type                 -> b

a socket
    mknod s SOCK 0644
    stat s type                 -> s
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_names_stand_for_as_on_a_disk(both: Both, case: Case) -> None:
    """semantics 2.12, 2.13: links, devices and pipes are EPERM (differences.py)."""
    both.compare(case)

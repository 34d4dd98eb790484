"""rmdir: what is empty, and who may."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "rmdir",
    """
an empty directory is gone after it
    mkdir d
    rmdir d
    stat d                      -> ENOENT
    rmdir d                     -> ENOENT
    mkdir d
    rmdir d/
    ls                          -> (empty)

a directory that has something in it stays
    mkdir d
    create d/f
    rmdir d                     -> ENOTEMPTY
    unlink d/f
    mkdir d/e
    rmdir d                     -> ENOTEMPTY
    rmdir d/e
    rmdir d
    ls                          -> (empty)

dots are not removed
    mkdir d
    rmdir .                     -> EINVAL
    rmdir d/.                   -> EINVAL
    mkdir d/e
    rmdir ..                    -> ENOTEMPTY
    rmdir d/e/..                -> ENOTEMPTY
    ls                          -> d

a file is no directory
    create f
    rmdir f                     -> ENOTDIR
    rmdir f/                    -> ENOTDIR
    rmdir f/d                   -> ENOTDIR
    rmdir none/d                -> ENOENT

it changes the times and the link count of the directory above
    mkdir d
    mkdir d/e
    stat d nlink                -> 3
    mark d
    rmdir d/e
    moved d                     -> mtime ctime
    stat d nlink                -> 2

when it fails no time changes
    mkdir d
    mkdir d/e
    create d/e/f
    mark d d/e
    rmdir d/e                   -> ENOTEMPTY
    rmdir d/none                -> ENOENT
    moved d                     -> nothing
    moved d/e                   -> nothing

it needs write permission on the directory above
    mkdir d
    mkdir d/e
    chown d/e NOBODY NOBODY
    nobody rmdir d/e            -> EACCES
    chmod d 0777
    nobody rmdir d/e

a removed directory that is open is empty, and nothing is made in it
    mkdir d
    h = opendir d
    mkdir e
    chdir e
    rmdir ../d
    rmdir ../e
    create f                    -> ENOENT
    mkdir g                     -> ENOENT

what a removed directory answers to who is in it, or has it open
    mkdir d
    create f
    h = opendir d
    chdir d
    rmdir ../d
    stat . nlink                -> 0
    stat h nlink                -> 0
    ls                          -> (empty)
    chmod . 0700
    utimens . 1 2
    statvfs namemax             -> 255
    getcwd                      -> ENOENT
    access . r
    stat x                      -> ENOENT
    rename x y                  -> ENOENT
    rename ../f y               -> ENOENT
    unlink x                    -> ENOENT
    rmdir .                     -> EINVAL
    stat ../f size              -> 0
    chdir ..
    ls                          -> f
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_rmdir_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

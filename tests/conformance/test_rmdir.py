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

names that are too long
    mkdir x*255
    rmdir x*255
    rmdir x*255                 -> ENOENT
    rmdir x*256                 -> ENAMETOOLONG
    rmdir {d/}*2048d            -> ENAMETOOLONG

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

it needs search permission on the way
    mkdir d
    mkdir d/e
    chmod d/e 0777
    mkdir d/e/f
    chmod d 0644
    nobody rmdir d/e/f          -> EACCES

in a sticky directory only the owner of either
    mkdir d
    chmod d 01777
    mkdir d/e
    mkdir d/f
    mkdir d/g
    chown d/e NOBODY NOBODY
    chown d/f OTHER OTHER
    chown d/g OTHER OTHER
    nobody rmdir d/f            -> EPERM
    nobody rmdir d/e
    chown d NOBODY NOBODY
    nobody rmdir d/f
    rmdir d/g
    ls d                        -> (empty)

a mode without write permission does not keep it
    mkdir d 0500
    rmdir d
    mkdir e
    chmod e 0111
    rmdir e
    ls                          -> (empty)

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

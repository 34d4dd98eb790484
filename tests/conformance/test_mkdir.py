"""mkdir: mode, owner, and every errno."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "mkdir",
    r"""
a directory is made with the mode less the umask
    umask 0022
    mkdir a 0755
    mkdir b 0777
    mkdir c 0151
    mkdir e 0700
    stat a type mode nlink      -> d 0755 2
    stat b mode                 -> 0755
    stat c mode                 -> 0151
    stat e mode                 -> 0700
    umask 0077
    mkdir f 0777
    stat f mode                 -> 0700
    umask 0070
    mkdir g 0345
    stat g mode                 -> 0305
    umask 0501
    mkdir h 0345
    stat h mode                 -> 0244

it belongs to who makes it
    mkdir a
    stat a uid gid              -> 0 0
    nobody mkdir b
    stat b uid gid              -> 65534 65534
    member mkdir c
    stat c uid gid              -> 65534 65532

in a directory with the set-group bit it inherits the group and the bit
    mkdir d
    chown d 0 GROUP
    chmod d 02777
    nobody mkdir d/e
    stat d/e uid gid mode       -> 65534 65532 2755
    nobody create d/f
    stat d/f uid gid mode       -> 65534 65532 0644
    nobody mkdir d/e/g
    stat d/e/g gid mode         -> 65532 2755

a name that is taken
    create f
    mkdir d
    mkdir f                     -> EEXIST
    mkdir d                     -> EEXIST
    mkdir d/                    -> EEXIST
    mkdir f/                    -> EEXIST
    mkdir .                     -> EEXIST
    mkdir ..                    -> EEXIST
    mkdir d/.                   -> EEXIST

a trailing slash means nothing
    mkdir d/
    stat d/ type                -> d
    ls                          -> d

nothing to put it in
    create f
    mkdir none/d                -> ENOENT
    mkdir f/d                   -> ENOTDIR

names that are too long
    mkdir x*255
    mkdir x*256                 -> ENAMETOOLONG
    mkdir {d/}*2048d            -> ENAMETOOLONG
    stat x*255 type             -> d

it changes the times and the link count of the directory above
    mkdir d
    stat d nlink                -> 2
    mark d
    mkdir d/e
    moved d                     -> mtime ctime
    stat d nlink                -> 3
    create d/f
    stat d nlink                -> 3

its own times are now
    mkdir a
    mark a
    mkdir b
    moved b a                   -> mtime ctime

it needs write permission on the directory
    mkdir d
    nobody mkdir d/e            -> EACCES
    chmod d 0777
    nobody mkdir d/e
    chmod d 0222
    nobody mkdir d/f            -> EACCES

it needs search permission on the way
    mkdir d
    mkdir d/e
    chmod d/e 0777
    chmod d 0666
    nobody mkdir d/e/f          -> EACCES

""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_mkdir_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

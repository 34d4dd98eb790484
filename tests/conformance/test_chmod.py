"""chmod and fchmod: modes, and what they mean."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "chmod",
    """
the mode of a file
    create f 0644
    chmod f 0111
    stat f mode                 -> 0111
    chmod f 0000
    stat f mode                 -> 0000
    chmod f 07777
    stat f mode                 -> 7777
    chmod f 0640
    stat f mode type            -> 0640 -
    a = open f RDONLY
    chmod a 0753
    stat f mode                 -> 0753
    stat a mode                 -> 0753

the mode of a directory
    mkdir d 0755
    chmod d 0753
    stat d mode                 -> 0753
    chmod d 01777
    stat d mode                 -> 1777
    chmod d 03770
    stat d mode type            -> 3770 d
    h = opendir d
    chmod h 0700
    stat d mode                 -> 0700

only the change time moves
    create f
    mkdir d
    mark f d
    chmod f 0600
    chmod d 0700
    moved f                     -> ctime
    moved d                     -> ctime
    a = open f RDONLY
    mark f
    chmod a 0644
    moved f                     -> ctime

to the same mode the change time moves too
    create f 0644
    mark f
    chmod f 0644
    moved f                     -> ctime

only the owner and root may
    create f 0644
    chmod f 0777
    nobody chmod f 0700         -> EPERM
    chown f NOBODY NOBODY
    nobody chmod f 0600
    stat f mode                 -> 0600
    other chmod f 0644          -> EPERM
    mkdir d 0777
    nobody chmod d 0700         -> EPERM
    nobody a = open f RDONLY
    other chmod a 0644          -> EPERM

an owner without permission may
    create f 0000
    chown f NOBODY NOBODY
    nobody chmod f 0600
    nobody open f RDWR

what is not there
    create f
    chmod none 0644             -> ENOENT
    chmod none/f 0644           -> ENOENT
    chmod f/g 0644              -> ENOTDIR
    chmod f/ 0644               -> ENOTDIR

the set-group bit goes if the owner is not in the group
    create f
    chown f NOBODY 0
    nobody chmod f 02755
    stat f mode                 -> 0755
    chown f NOBODY GROUP
    member chmod f 02755
    stat f mode                 -> 2755
    chown f NOBODY GROUP2
    member chmod f 02755
    stat f mode                 -> 2755
    chown f NOBODY OTHER
    member chmod f 02755
    stat f mode                 -> 0755

the set-user bit stays for its owner, and the sticky bit too
    create f
    chown f NOBODY NOBODY
    nobody chmod f 05755
    stat f mode                 -> 5755
    mkdir d
    chown d NOBODY NOBODY
    nobody chmod d 01777
    stat d mode                 -> 1777

set-user and set-group bits go when another one writes
    create f
    chmod f 06777
    nobody a = open f WRONLY
    nobody write a x
    stat f mode                 -> 0777
    chmod f 06777
    nobody pwrite a yy 1
    stat f mode                 -> 0777
    stat a mode                 -> 0777

when root writes they stay
    create f
    chmod f 06777
    a = open f WRONLY
    write a x
    stat f mode                 -> 6777

a mode without write permission keeps nobody from removing, renaming and replacing
    create a
    create b
    create c
    mkdir d
    mkdir e
    chmod a 0444
    chmod b 0111
    chmod c 0555
    chmod d 0555
    chmod e 0111
    rename a g
    unlink g
    rename b c
    unlink c
    rename d h
    rename h e
    rmdir e
    ls                          -> (empty)

root writes whatever the mode
    create f 0644 text
    chmod f 0444
    a = open f WRONLY
    open f RDONLY|TRUNC
    truncate f 0
    chmod f 0644
    stat f size                 -> 0

root makes and removes whatever the mode of the directory
    mkdir d
    create d/f
    chmod d 0555
    create d/g
    mkdir d/e
    unlink d/f
    rename d/g d/h
    chmod d 0755
    ls d                        -> e h
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_chmod_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

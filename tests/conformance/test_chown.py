"""chown and fchown."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "chown",
    """
the owner and the group of a file and a directory
    create f
    chown f NOBODY GROUP
    stat f uid gid              -> 65534 65532
    chown f 0 0
    stat f uid gid              -> 0 0
    mkdir d
    chown d NOBODY GROUP
    stat d uid gid              -> 65534 65532
    a = open f RDONLY
    chown a OTHER GROUP2
    stat f uid gid              -> 65533 65531
    stat a uid gid              -> 65533 65531

-1 leaves one as it is
    create f
    chown f NOBODY GROUP
    chown f -1 OTHER
    stat f uid gid              -> 65534 65533
    chown f OTHER -1
    stat f uid gid              -> 65533 65533
    chown f -1 -1
    stat f uid gid              -> 65533 65533

large numbers
    create f
    chown f 4294967294 2147483648
    stat f uid gid              -> 4294967294 2147483648

-1 for both moves the change time
    create f
    mark f
    chown f -1 -1
    moved f                     -> ctime

only the change time moves
    create f
    mkdir d
    mark f d
    chown f NOBODY NOBODY
    chown d NOBODY NOBODY
    moved f                     -> ctime
    moved d                     -> ctime

an owner may give a file to another group of their own
    create f
    chown f NOBODY GROUP
    member chown f -1 GROUP2
    stat f uid gid              -> 65534 65531
    member chown f NOBODY GROUP
    stat f uid gid              -> 65534 65532
    mark f
    member chown f -1 GROUP2
    moved f                     -> ctime

an owner may not give a file away, nor to a foreign group
    create f
    chown f NOBODY GROUP
    member chown f OTHER -1     -> EPERM
    member chown f -1 OTHER     -> EPERM
    nobody chown f -1 GROUP2    -> EPERM
    stat f uid gid              -> 65534 65532

others may not change anything
    create f
    chown f NOBODY GROUP
    other chown f OTHER OTHER   -> EPERM
    other chown f -1 OTHER      -> EPERM
    other chown f NOBODY GROUP  -> EPERM
    mkdir d
    nobody chown d NOBODY -1    -> EPERM

set-user and set-group bits go when the owner changes it
    create f
    chown f NOBODY GROUP
    chmod f 06555
    member chown f -1 GROUP2
    stat f mode                 -> 0555

set-user and set-group bits of an executable go when root changes it
    create f
    chmod f 06755
    chown f NOBODY GROUP
    stat f mode uid gid         -> 0755 65534 65532
    chmod f 02644
    chown f OTHER GROUP
    stat f mode                 -> 2644

set-user and set-group bits of a directory stay
    mkdir d
    chmod d 06755
    chown d NOBODY GROUP
    stat d mode                 -> 6755

what is not there
    create f
    chown none 0 0              -> ENOENT
    chown none/f 0 0            -> ENOENT
    chown f/g 0 0               -> ENOTDIR
    chown f/ 0 0                -> ENOTDIR

an owner loses what they gave away
    create f 0600
    chown f NOBODY NOBODY
    nobody open f
    chown f OTHER OTHER
    nobody open f               -> EACCES
    nobody chmod f 0644         -> EPERM
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_chown_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

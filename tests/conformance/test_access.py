"""access."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "access",
    """
the bits of the owner, the group and all others
    create o 0700
    create g 0070
    create a 0007
    chown o NOBODY 0
    chown g 0 GROUP
    nobody access o rwx
    other access o r            -> EACCES
    other access o w            -> EACCES
    other access o x            -> EACCES
    member access g rwx
    nobody access g r           -> EACCES
    other access a rwx
    other access o f

each bit alone
    create r 0444
    create w 0222
    create x 0111
    create n 0000
    nobody access r r
    nobody access r w           -> EACCES
    nobody access r x           -> EACCES
    nobody access w w
    nobody access w r           -> EACCES
    nobody access x x
    nobody access x rx          -> EACCES
    nobody access n f
    nobody access n r           -> EACCES

root may all but execute what nobody may
    create n 0000
    mkdir d 0000
    access n rw
    access n x                  -> EACCES
    chmod n 0100
    access n rwx
    access d rwx

what is not there
    create f
    access none f               -> ENOENT
    access f/g f                -> ENOTDIR
    access f/ f                 -> ENOTDIR
    access x*255 f              -> ENOENT
    access x*256 f              -> ENAMETOOLONG

it needs search permission on the way
    mkdir d
    create d/f 0777
    chmod d 0666
    nobody access d/f f         -> EACCES
    chmod d 0711
    nobody access d/f r

a directory
    mkdir d 0751
    chown d 0 GROUP
    nobody access d x
    nobody access d r           -> EACCES
    member access d rx
    member access d w           -> EACCES
    access d/ rwx
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_access_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

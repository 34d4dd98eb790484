"""The sticky bit: who may remove and rename what is in such a directory, for each owner of either."""

from __future__ import annotations

import itertools

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

OWNERS = {"root": "0", "nobody": "NOBODY", "other": "OTHER"}


def sticky(directory: str, entry: str, make: str, remove: str) -> str:
    """What `nobody` may do to an entry of this owner in a sticky directory of that one."""
    may = "" if "nobody" in (directory, entry) else "-> EPERM"
    return f"""
{make} of {entry} in a sticky directory of {directory}
    mkdir d
    chown d {OWNERS[directory]} {OWNERS[directory]}
    chmod d 01777
    {make} d/e
    {make} d/f
    {make} d/g
    chown d/e {OWNERS[entry]} {OWNERS[entry]}
    chown d/f {OWNERS[entry]} {OWNERS[entry]}
    chown d/g NOBODY NOBODY
    mark d
    nobody {remove} d/e {may}
    nobody rename d/g d/f {may}
    nobody rename d/f d/h {may}
    moved d -> {"nothing" if may else "mtime ctime"}
    ls d -> {"e f g" if may else "h"}
    nobody {make} d/i
    chmod d 0777
    nobody rename d/i d/k
    ls d -> {"e f g k" if may else "h k"}
"""


CASES = cases(
    "sticky",
    "".join(
        sticky(directory, entry, make, remove)
        for directory, entry in itertools.product(OWNERS, repeat=2)
        for make, remove in (("create", "unlink"), ("mkdir", "rmdir"))
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_the_sticky_bit_guards_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

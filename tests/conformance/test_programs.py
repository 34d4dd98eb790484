"""execve and ETXTBSY."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "programs",
    """
a program runs
    program f 0755
    execute f                   -> 0

a running program is not written
    program f 0755
    start f
    open f WRONLY               -> ETXTBSY
    open f RDWR|TRUNC           -> ETXTBSY
    truncate f 0                -> ETXTBSY
    open f RDONLY
    unlink f

a program that is being written does not run
    program f 0755
    a = open f WRONLY
    execute f                   -> ETXTBSY
    close a
    execute f                   -> 0

a running program is renamed and replaced
    program f 0755
    start f
    rename f g
    create h
    rename h g
    stat g size                 -> 0

without permission it does not run
    program f 0644
    execute f                   -> EACCES
    chmod f 0700
    nobody execute f            -> EACCES
    chmod f 0711
    nobody execute f            -> 0
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_programs_run_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

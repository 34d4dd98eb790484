"""utimensat and futimens, with NOW and OMIT."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "utimens",
    """
both times of a file and a directory
    create f
    mkdir d
    utimens f 100 200
    stat f atime mtime          -> 100000000000 200000000000
    utimens d 300 400
    stat d atime mtime          -> 300000000000 400000000000
    a = open f RDONLY
    utimens a 500 600
    stat f atime mtime          -> 500000000000 600000000000
    stat a atime mtime          -> 500000000000 600000000000

nanoseconds
    create f
    utimens f 1.000000001 1600000000.123456789
    stat f atime mtime          -> 1000000001 1600000000123456789

far away
    create f
    a = open f RDWR
    write a x
    utimens f 0 0
    fsync a
    close a
    stat f atime mtime          -> 0 0
    utimens f 0 4294967296
    stat f atime mtime          -> 0 4294967296000000000
    utimens f 1 0
    stat f atime mtime          -> 1000000000 0

before the epoch
    create f
    utimens f -1 -1000
    stat f atime mtime          -> -1000000000 -1000000000000

one of them is left as it is
    create f
    utimens f 100 200
    utimens f OMIT 300
    stat f atime mtime          -> 100000000000 300000000000
    utimens f 400 OMIT
    stat f atime mtime          -> 400000000000 300000000000
    mark f
    utimens f OMIT OMIT
    moved f                     -> nothing
    stat f atime mtime          -> 400000000000 300000000000

one of them is now
    create f
    mark f
    utimens f 100 NOW
    moved f                     -> mtime ctime
    stat f atime                -> 100000000000
    utimens f NOW 100
    stat f mtime                -> 100000000000
    mark f
    utimens f NOW NOW
    moved f                     -> mtime ctime

it moves the change time
    create f
    mark f
    utimens f 100 200
    moved f                     -> ctime
    mkdir d
    mark d
    utimens d 100 200
    moved d                     -> ctime

they stay when the file is opened, read, locked and closed
    create f 0644 text
    utimens f 8999999990 8999999991
    get f
    a = open f RDWR
    read a
    lock a
    fsync a
    close a
    stat f mtime                -> 8999999991000000000

they stay when the mode, the owner and the name change
    create f 0644 text
    utimens f 100 200
    chmod f 0600
    chown f NOBODY NOBODY
    rename f g
    stat g atime mtime          -> 100000000000 200000000000

a write changes what was set
    create f 0644 text
    utimens f 100 200
    a = open f RDWR
    write a x
    mark f
    stat f atime                -> 100000000000
    utimens a 300 400
    stat f mtime                -> 400000000000
    write a y
    moved f                     -> mtime ctime

what was set through a handle after writing stays after closing
    a = open f CREAT|RDWR
    write a text
    utimens a 100 200
    close a
    stat f atime mtime          -> 100000000000 200000000000

those of a directory stay until something in it changes
    mkdir d
    create d/f
    utimens d 100 200
    ls d
    a = open d/f RDWR
    write a x
    close a
    stat d mtime                -> 200000000000
    mark d
    create d/g
    moved d                     -> mtime ctime

the owner and root may set any time
    create f
    chown f NOBODY NOBODY
    nobody utimens f 100 200
    nobody utimens f NOW NOW
    nobody utimens f OMIT 300
    stat f mtime                -> 300000000000
    utimens f 1 2
    stat f mtime                -> 2000000000

others may not
    create f 0644
    nobody utimens f 100 200    -> EPERM
    nobody utimens f OMIT 200   -> EPERM
    nobody utimens f NOW 200    -> EPERM
    nobody utimens f NOW OMIT   -> EPERM
    nobody utimens f NOW NOW    -> EACCES
    nobody utimens f OMIT OMIT

who may write may set both to now
    create f 0666
    chmod f 0666
    mark f
    nobody utimens f NOW NOW
    moved f                     -> mtime ctime
    nobody utimens f NOW OMIT   -> EPERM
    nobody utimens f 1 NOW      -> EPERM

what is not there
    create f
    utimens none 1 1            -> ENOENT
    utimens f/g 1 1             -> ENOTDIR
    utimens f/ 1 1              -> ENOTDIR
    utimens x*256 1 1           -> ENAMETOOLONG
    utimens none OMIT OMIT      -> ?

""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_utimens_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

"""unlink: files and open files."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "unlink",
    """
a file is gone after it
    create f
    unlink f
    stat f                      -> ENOENT
    unlink f                    -> ENOENT
    ls                          -> (empty)

an unlinked file stays readable and writable through its handles
    create f 0644 text
    a = open f RDWR
    unlink f
    stat f                      -> ENOENT
    read a                      -> b'text'
    write a more
    pread a 100 0               -> b'textmore'
    stat a size nlink           -> 8 0

it changes the times of the directory, and the change time of a file that is still open
    mkdir d
    create d/f
    a = open d/f RDONLY
    mark d a
    unlink d/f
    moved d                     -> mtime ctime
    moved a                     -> ctime
    rmdir d

a new file of the name is another file
    create f 0644 old
    a = open f RDONLY
    unlink f
    create f 0644 new
    same a f                    -> different
    read a                      -> b'old'
    get f                       -> b'new'

a directory is not unlinked
    mkdir d
    unlink d                    -> EISDIR
    unlink d/                   -> EISDIR
    unlink .                    -> EISDIR
    unlink ..                   -> EISDIR

a file is not a directory on the way
    create f
    unlink f/                   -> ENOTDIR
    unlink f/g                  -> ENOTDIR
    unlink none/g               -> ENOENT
    unlink none/                -> ENOENT

it needs write permission on the directory, none on the file
    mkdir d
    create d/f 0000
    nobody unlink d/f           -> EACCES
    chown d NOBODY -1
    nobody unlink d/f
    ls d                        -> (empty)

the attributes of an unlinked open file stay
    create f 0640 text
    chown f NOBODY GROUP
    utimens f 100 200
    a = open f RDWR
    unlink f
    stat a mode uid gid size atime mtime -> 0640 65534 65532 4 100000000000 200000000000
    chmod a 0751
    chown a OTHER GROUP
    utimens a 300 400
    stat a mode uid gid atime mtime -> 0751 65533 65532 300000000000 400000000000
    mark a
    write a T
    moved a                     -> mtime ctime
    stat a mode size            -> 0751 4

the last of several handles ends an unlinked file
    create f 0644 text
    a = open f RDONLY
    b = open f RDWR
    unlink f
    close a
    write b T
    pread b 10 0                -> b'Text'
    close b
    ls                          -> (empty)
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_unlink_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

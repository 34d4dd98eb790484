"""Names that stay on this machine: they behave as any other."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "scratch",
    """
a file
    create .f.swp 0640 text
    stat .f.swp mode nlink size -> 0640 1 4
    a = open .f.swp RDWR
    write a T
    get .f.swp                  -> b'Text'
    truncate .f.swp 2
    chmod .f.swp 0600
    chown .f.swp NOBODY GROUP
    utimens .f.swp 100 200
    stat .f.swp mode uid gid size mtime -> 0600 65534 65532 2 200000000000
    rename .f.swp .g.swp
    ls                          -> .g.swp
    unlink .g.swp
    stat a size nlink           -> 2 0
    ls                          -> (empty)

a symbolic link
    symlink x .#f
    readlink .#f                -> x
    symlink y .#f               -> EEXIST
    create .#g
    rename .#f .#g
    ls                          -> .#g
    readlink .#g                -> x
    create d~
    symlink .#g e~
    readlink e~                 -> .#g
    unlink .#g
    ls                          -> d~ e~

a symbolic link is renamed to a name that does not stay here
    symlink none .#f
    rename .#f g
    readlink g                  -> none

a directory
    mkdir d~ 0750
    mkdir d~/e
    create d~/e/f 0644 text
    stat d~ mode nlink          -> 0750 3
    rename d~/e d~/g
    get d~/g/f                  -> b'text'
    rmdir d~/g                  -> ENOTEMPTY
    rmdir d~                    -> ENOTEMPTY
    unlink d~/g/f
    rmdir d~/g
    rmdir d~
    ls                          -> (empty)

times move as those of other files
    mkdir d
    mark d
    create d/f~
    moved d                     -> mtime ctime
    mark d d/f~
    chmod d/f~ 0600
    moved d/f~                  -> ctime
    moved d                     -> nothing
    rename d/f~ d/g~
    moved d/g~ d/f~             -> ctime
    moved d                     -> mtime ctime
    mark d
    mkdir d/h~
    moved d                     -> mtime ctime
    mark d d/h~
    create d/h~/f
    moved d                     -> nothing
    moved d/h~                  -> mtime ctime
    mark d
    unlink d/g~
    moved d                     -> mtime ctime

a backup beside a new file
    create f 0640 old
    chown f NOBODY GROUP
    rename f f~
    stat f                      -> ENOENT
    create f 0600 new
    get f~                      -> b'old'
    get f                       -> b'new'
    stat f~ mode uid gid        -> 0640 65534 65532
    stat f mode uid gid         -> 0600 0 0
    unlink f~
    ls                          -> f

a new file renamed over an old one
    create f 0640 old
    create f~ 0600 new
    a = open f RDONLY
    rename f~ f
    read a                      -> b'old'
    get f                       -> b'new'
    stat f mode                 -> 0600
    ls                          -> f

who may, is decided as elsewhere
    mkdir d
    chmod d 01777
    create d/.f.swp 0600
    nobody open d/.f.swp        -> EACCES
    nobody unlink d/.f.swp      -> EPERM
    nobody chmod d/.f.swp 0666  -> EPERM
    nobody rename d/.f.swp d/g  -> EPERM
    nobody create d/.g.swp
    stat d/.g.swp uid gid       -> 65534 65534
    nobody unlink d/.g.swp

a directory of the workspace becomes a local one
    mkdir d
    create d/f
    rename d d~

a local directory becomes one of the workspace
    mkdir d~
    create d~/f
    rename d~ d

a file of the workspace moves into a local directory
    mkdir d~
    a = open f CREAT|RDWR
    write a text
    fsync a
    close a
    rename f d~/f

a file moves out of a local directory
    mkdir d~
    create d~/f 0644 text
    rename d~/f f
    get f                       -> b'text'
    ls d~                       -> (empty)

a directory does not replace a file, nor a file a directory
    create f~
    mkdir d~
    rename f~ d~                -> EISDIR
    rename d~ f~                -> ENOTDIR
    rename d~ d~/e              -> EINVAL
    unlink d~                   -> EISDIR
    rmdir f~                    -> ENOTDIR
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_local_names_behave_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

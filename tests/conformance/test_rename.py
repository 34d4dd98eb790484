"""rename: files, directories, what is replaced, and every errno."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "rename",
    """
a file gets the other name, and stays the file that it is
    create a 0640 text
    h = open a RDONLY
    rename a b
    stat a                      -> ENOENT
    same h b                    -> same
    stat b mode nlink size      -> 0640 1 4
    get b                       -> b'text'
    ls                          -> b

a file replaces a file
    create a 0640 new
    create b 0600 old
    h = open b RDONLY
    rename a b
    get b                       -> b'new'
    stat b mode                 -> 0640
    read h                      -> b'old'
    stat h nlink                -> 0
    ls                          -> b

what is open goes on under the new name
    create a 0644 text
    h = open a RDWR
    rename a b
    write h T
    get b                       -> b'Text'
    truncate h 2
    stat b size                 -> 2
    rename b c
    pwrite h xy 0
    get c                       -> b'xy'

a directory gets the other name with all that is in it
    mkdir a 0750
    mkdir a/b
    create a/b/f 0600 text
    h = open a/b/f RDWR
    rename a c
    stat a                      -> ENOENT
    ls c/b                      -> f
    stat c mode                 -> 0750
    get c/b/f                   -> b'text'
    write h T
    get c/b/f                   -> b'Text'

a directory replaces an empty directory
    mkdir a
    mkdir b
    create a/f
    rename a b
    ls b                        -> f
    ls                          -> b

a directory does not replace one that has something in it
    mkdir a
    mkdir b
    create b/f
    rename a b                  -> ENOTEMPTY
    unlink b/f
    mkdir b/d
    rename a b                  -> ENOTEMPTY
    ls b                        -> d

a file does not replace a directory
    create f
    mkdir d
    rename f d                  -> EISDIR
    create d/g
    rename f d                  -> EISDIR
    ls                          -> d f

a directory does not replace a file
    mkdir d
    create f 0644 text
    rename d f                  -> ENOTDIR
    get f                       -> b'text'
    stat d type                 -> d

a directory does not move below itself
    mkdir d
    mkdir d/e
    rename d d/f                -> EINVAL
    rename d d/e                -> EINVAL
    rename d d/e/f              -> EINVAL
    ls d                        -> e

a directory does not replace one above it
    mkdir a
    mkdir a/b
    mkdir a/b/c
    rename a/b/c a/b            -> ENOTEMPTY
    rename a/b/c a              -> ENOTEMPTY

a name to itself is no change
    create f 0644 text
    mkdir d
    mark f d
    rename f f
    rename d d
    moved f                     -> nothing
    moved d                     -> nothing
    rename none none            -> ENOENT

what is not there
    create f
    mkdir d
    rename none x               -> ENOENT
    rename none f               -> ENOENT
    rename f none/x             -> ENOENT
    rename none/x y             -> ENOENT
    rename d none/d             -> ENOENT
    ls                          -> d f

a file is not a directory on the way
    create f
    create g
    mkdir d
    rename f/x y                -> ENOTDIR
    rename g f/x                -> ENOTDIR
    rename d f/d                -> ENOTDIR
    rename f/ x                 -> ENOTDIR
    rename f x/                 -> ENOTDIR
    rename f g/                 -> ENOTDIR
    ls                          -> d f g

a trailing slash after a directory means nothing
    mkdir d
    rename d/ e/
    ls                          -> e
    mkdir f
    rename e f/
    ls                          -> f

dots are not renamed
    mkdir d
    rename . x                  -> EBUSY
    rename d/. x                -> EBUSY
    rename d/.. x               -> EBUSY
    rename d .                  -> EBUSY
    rename d ..                 -> EBUSY

names that are too long
    create f
    rename f x*256              -> ENAMETOOLONG
    rename x*256 f              -> ENAMETOOLONG
    rename f {d/}*2048f         -> ENAMETOOLONG
    rename f x*255
    rename x*255 y*255
    rename y*255 f
    ls                          -> f

it changes the times of both directories and the change time of the file
    mkdir a
    mkdir b
    create a/f
    mark a b a/f
    rename a/f b/g
    moved a                     -> mtime ctime
    moved b                     -> mtime ctime
    moved b/g a/f               -> ctime

within one directory it changes its times
    mkdir d
    create d/f
    mark d d/f
    rename d/f d/g
    moved d                     -> mtime ctime
    moved d/g d/f               -> ctime

a renamed directory keeps its own times, but for the change time
    mkdir d
    create d/f
    mark d
    rename d e
    moved e d                   -> ctime

replacing an open file changes its change time
    create f 0644 new
    create g 0644 old
    h = open g RDONLY
    mark h f
    rename f g
    moved h                     -> ctime
    moved g f                   -> ctime

when it fails no time changes
    mkdir d
    mkdir e
    create d/f
    create e/g
    mark d e d/f
    rename d/f e/none/x         -> ENOENT
    rename d e                  -> ENOTEMPTY
    rename d/f e                -> EISDIR
    moved d                     -> nothing
    moved e                     -> nothing
    moved d/f                   -> nothing

link counts of directories follow
    mkdir a
    mkdir b
    mkdir a/c
    stat a nlink                -> 3
    stat b nlink                -> 2
    rename a/c b/c
    stat a nlink                -> 2
    stat b nlink                -> 3

it needs write permission on both directories
    mkdir a 0777
    mkdir b 0777
    chmod a 0777
    chmod b 0777
    create a/f
    chown a/f NOBODY NOBODY
    chmod b 0755
    nobody rename a/f b/f       -> EACCES
    chmod b 0777
    chmod a 0755
    nobody rename a/f b/f       -> EACCES
    nobody rename a/f a/g       -> EACCES
    chmod a 0777
    nobody rename a/f b/f
    ls b                        -> f

a directory that moves to another one needs write permission itself
    mkdir a
    chmod a 0777
    mkdir b
    chmod b 0777
    mkdir a/d
    chown a/d OTHER OTHER
    nobody rename a/d b/d       -> EACCES
    nobody rename a/d a/e
    ls a                        -> e

attributes go along
    create f 0644 text
    chown f NOBODY GROUP
    chmod f 0751
    utimens f 100 200.5
    rename f g
    stat g mode uid gid atime mtime -> 0751 65534 65532 100000000000 200500000000

the working directory goes along
    mkdir a
    chdir a
    create f
    rename ../a ../b
    getcwd                      -> b
    ls                          -> f
    create g
    chdir ..
    ls b                        -> f g

with the flag that a name must be free
    create a 0644 one
    create b 0644 two
    rename_noreplace a b        -> EEXIST
    rename_noreplace a c
    ls                          -> b c

with the flag that two names change places
    create a 0644 one
    create b 0644 two
    rename_exchange a b
    get a                       -> b'two'
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_renames_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

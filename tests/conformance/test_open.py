"""open: every flag, who may, and what a handle can do."""

from __future__ import annotations

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both

CASES = cases(
    "open",
    r"""
a file is made with the mode less the umask
    umask 0022
    a = open f CREAT|WRONLY 0755
    stat f type mode size nlink -> - 0755 0 1
    umask 0077
    open g CREAT|WRONLY 0777
    stat g mode                 -> 0700
    umask 0070
    open h CREAT|WRONLY 0345
    stat h mode                 -> 0305
    umask 0000
    open i CREAT|WRONLY 0151
    stat i mode                 -> 0151
    open k CREAT|RDONLY 0000
    stat k mode                 -> 0000

it belongs to who makes it
    nobody open f CREAT|WRONLY 0644
    stat f uid gid              -> 65534 65534
    member open g CREAT|WRONLY 0644
    stat g uid gid              -> 65534 65532

a handle of a file made without write permission can write
    a = open f CREAT|RDWR 0444
    write a text
    fsync a
    pread a 9 0                 -> b'text'
    close a
    get f                       -> b'text'

the times of a new file are now, and the directory's change
    mkdir d
    mark d
    create d/f
    moved d                     -> mtime ctime
    moved d/f d                 -> mtime ctime
    mark d d/f
    open d/f CREAT|RDONLY
    moved d                     -> nothing
    moved d/f                   -> nothing

EXCL makes a file or fails
    a = open f CREAT|EXCL|RDWR
    open f CREAT|EXCL|RDWR      -> EEXIST
    mkdir d
    open d CREAT|EXCL|RDWR      -> EEXIST
    open d/ CREAT|EXCL|RDWR     -> EISDIR
    open d CREAT|EXCL           -> EEXIST
    open none/f CREAT|EXCL|RDWR -> ENOENT

TRUNC empties a file, and changes its times
    create f 0644 text
    mark f
    a = open f RDWR|TRUNC
    stat a size                 -> 0
    stat f size                 -> 0
    moved f                     -> mtime ctime
    write a T
    stat f size                 -> 1
    open f CREAT|WRONLY|TRUNC
    stat f size                 -> 0

TRUNC of an empty file
    create f
    mark f
    open f WRONLY|TRUNC
    moved f                     -> mtime ctime

CREAT of a file that is there changes nothing
    create f 0640 text
    mark f
    a = open f CREAT|RDWR 0777
    stat f mode size            -> 0640 4
    moved f                     -> nothing
    read a                      -> b'text'

APPEND writes at the end, wherever the handle is
    create f 0644 text
    a = open f RDWR|APPEND
    b = open f RDWR
    write a 1
    pwrite b 23 6
    write a 4
    get f                       -> b'text1\x00234'
    seek a 0
    write a 5
    seek a 0 CUR                -> 10
    get f                       -> b'text1\x002345'

what is written with one handle is read with another
    create f 0644 text
    a = open f RDONLY
    b = open f WRONLY
    write b TE
    read a                      -> b'TExt'
    truncate b 0
    pread a 9 0                 -> b''
    pwrite b x 3
    pread a 9 0                 -> b'\x00\x00\x00x'

a handle is for what it was opened for
    create f 0644 text
    a = open f RDONLY
    write a x                   -> EBADF
    truncate a 0                -> EINVAL
    b = open f WRONLY
    read b                      -> EBADF

a directory is opened to be listed only
    mkdir d
    open d
    open d/
    open d RDONLY|DIRECTORY
    open d WRONLY               -> EISDIR
    open d RDWR                 -> EISDIR
    open d RDONLY|TRUNC         -> EISDIR
    open d CREAT|RDONLY         -> EISDIR
    open d CREAT|WRONLY         -> EISDIR
    open . CREAT|RDWR           -> EISDIR
    a = open d
    read a                      -> EISDIR

DIRECTORY refuses a file
    create f
    open f RDONLY|DIRECTORY     -> ENOTDIR
    open f WRONLY|DIRECTORY     -> ENOTDIR
    open none RDONLY|DIRECTORY  -> ENOENT
    open f CREAT|DIRECTORY      -> ?
    open none CREAT|DIRECTORY   -> ?
    mkdir d
    open d CREAT|DIRECTORY      -> ?
    open d RDWR|DIRECTORY       -> EISDIR

NOFOLLOW means nothing to a file and a directory
    create f 0644 text
    mkdir d
    a = open f RDONLY|NOFOLLOW
    read a                      -> b'text'
    open d RDONLY|NOFOLLOW
    open f WRONLY|NOFOLLOW|CREAT

PATH opens a name
    create f 0000
    mkdir d 0000
    nobody a = open f PATH
    nobody open d PATH
    read a                      -> EBADF
    stat a type mode            -> - 0000

a trailing slash makes a directory of a name
    create f
    open f/                     -> ENOTDIR
    open f/ WRONLY|CREAT        -> EISDIR
    open none/ CREAT|WRONLY     -> EISDIR
    open none/                  -> ENOENT
    ls                          -> f

what is not there
    create f
    open none                   -> ENOENT
    open none RDWR|TRUNC        -> ENOENT
    open none/f CREAT|RDWR      -> ENOENT
    open f/g                    -> ENOTDIR
    open f/g CREAT|RDWR         -> ENOTDIR
    open ""                     -> ENOENT

names that are too long
    open x*255 CREAT|WRONLY
    open x*256                  -> ENAMETOOLONG
    open x*256 CREAT|WRONLY     -> ENAMETOOLONG
    open Ü*127x CREAT|WRONLY
    open Ü*128 CREAT|WRONLY     -> ENAMETOOLONG
    open {d/}*2047f             -> ENOENT
    open {d/}*2048f             -> ENAMETOOLONG
    open {d/}*2048f CREAT|RDWR  -> ENAMETOOLONG

permission to read, to write, and neither
    create r 0444
    create w 0222
    create n 0000
    create x 0711
    nobody open r
    nobody open r WRONLY        -> EACCES
    nobody open r RDWR          -> EACCES
    nobody open r RDONLY|TRUNC  -> EACCES
    nobody open w WRONLY
    nobody open w               -> EACCES
    nobody open w RDWR          -> EACCES
    nobody open n               -> EACCES
    nobody open n WRONLY        -> EACCES
    nobody open x               -> EACCES
    nobody open n CREAT|RDONLY  -> EACCES
    open n RDWR
    open r RDWR

the bits of the owner, the group and all others count for each alone
    create o 0600
    create g 0060
    create a 0006
    chown o NOBODY 0
    chown g 0 GROUP
    nobody open o RDWR
    other open o                -> EACCES
    member open g RDWR
    nobody open g               -> EACCES
    other open a RDWR
    chown a NOBODY 0
    nobody open a               -> EACCES
    create b 0604
    chown b 0 GROUP2
    member open b               -> EACCES
    nobody open b

a new file needs write permission on the directory
    mkdir d
    nobody open d/f CREAT|WRONLY -> EACCES
    chmod d 0777
    nobody open d/f CREAT|WRONLY
    chmod d 0555
    nobody open d/g CREAT|WRONLY -> EACCES
    nobody open d/f CREAT|WRONLY

it needs search permission on the way
    mkdir d
    create d/f
    chmod d 0666
    nobody open d/f             -> EACCES
    nobody open d/g CREAT|RDWR  -> EACCES
    nobody ls d                 -> f
    chmod d 0711
    nobody open d/f
    nobody ls d                 -> EACCES

an unnamed temporary file
    open . TMPFILE|RDWR 0600
    ls                          -> (empty)

a file larger than what was written has zeroes between
    a = open f CREAT|RDWR
    pwrite a x 5000
    stat f size                 -> 5001
    pread a 2 4999              -> b'\x00x'
    pread a 2 0                 -> b'\x00\x00'
    seek a 0 END                -> 5001

what a shared memory map changes is in the file
    create f 0644 text
    a = open f RDWR
    mark f
    mapwrite a TE
    get f                       -> b'TExt'
    fsync a
    moved f                     -> mtime ctime

writing changes both times, reading neither
    create f 0644 text
    a = open f RDWR
    mark f
    read a
    moved f                     -> nothing
    pwrite a x 0
    moved f                     -> mtime ctime
    mark f
    fsync a
    close a
    moved f                     -> nothing

a file that was not written has a hole
    a = open f CREAT|RDWR
    truncate a 1048576
    seek a 0 HOLE
    seek a 0 DATA               -> ENXIO

an attribute of its own name
    create f
    setxattr f user.a b

room is made with what posix_fallocate falls back to
    a = open f CREAT|RDWR
    mark f
    posix_fallocate a 0 567
    stat f size                 -> 567
    moved f                     -> mtime ctime
    posix_fallocate a 20000 3210
    stat f size                 -> 23210
    pread a 3 20000             -> b'\x00\x00\x00'
    posix_fallocate a 0 0       -> EINVAL

room is set aside
    a = open f CREAT|RDWR
    fallocate a 0 1000
    stat f size                 -> 1000
""",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_open_answers_as_on_a_disk(both: Both, case: Case) -> None:
    both.compare(case)

"""Symbolic links with --local-symlinks: they behave as on a disk, and make no request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both, place
from tests.support.mounts import MountedJob, mounting
from tests.support.serverside import visible

from jobfs.emulator import Behaviour, EmulatorConfig, running

CASES = cases(
    "links",
    """
a link leads to a file
    create f 0640 text
    symlink f l
    readlink l                  -> f
    get l                       -> b'text'
    stat l type size            -> - 4
    lstat l type size mode nlink -> l 1 0777 1
    a = open l RDWR
    write a T
    get f                       -> b'Text'
    truncate l 2
    stat f size                 -> 2
    chmod l 0600
    stat f mode                 -> 0600
    ls                          -> f l

a link leads to a directory
    mkdir d
    create d/f 0644 text
    symlink d l
    get l/f                     -> b'text'
    ls l                        -> f
    create l/g
    ls d                        -> f g
    stat l/ type                -> d
    lstat l type                -> l
    rmdir l                     -> ENOTDIR
    rename l/f l/h
    ls d                        -> g h

a link leads up and down
    mkdir d
    mkdir e
    create e/f 0644 text
    symlink ../e/f d/l
    get d/l                     -> b'text'
    symlink ../d/l e/m
    get e/m                     -> b'text'
    readlink e/m                -> ../d/l

a link leads nowhere
    symlink nö l
    stat l                      -> ENOENT
    lstat l type size           -> l 3
    open l                      -> ENOENT
    open l CREAT|EXCL|RDWR      -> EEXIST
    mkdir l                     -> EEXIST
    mkfifo l                    -> EEXIST
    open l CREAT|WRONLY
    ls                          -> l nö
    unlink l
    ls                          -> nö

links in a circle
    symlink a b
    symlink b a
    symlink c c
    open a                      -> ELOOP
    stat b                      -> ELOOP
    open c/f                    -> ELOOP
    mkdir c/d                   -> ELOOP
    unlink a
    ls                          -> b c

NOFOLLOW refuses a link
    create f
    mkdir d
    symlink f l
    symlink d m
    open l RDONLY|NOFOLLOW      -> ELOOP
    open l WRONLY|NOFOLLOW|CREAT -> ELOOP
    open m RDONLY|DIRECTORY|NOFOLLOW -> ENOTDIR
    open m RDONLY|DIRECTORY

a link is unlinked, not what it leads to
    create f 0644 text
    symlink f l
    mkdir d
    mark d
    symlink x d/l
    moved d                     -> mtime ctime
    mark d
    unlink d/l
    moved d                     -> mtime ctime
    unlink l
    get f                       -> b'text'
    rmdir d
    ls                          -> f

a directory with a link in it is not empty
    mkdir d
    symlink x d/l
    rmdir d                     -> ENOTEMPTY
    mkdir e
    rename e d                  -> ENOTEMPTY
    unlink d/l
    rmdir d

a link is renamed, not what it leads to
    create f 0644 text
    symlink f l
    rename l m
    readlink m                  -> f
    stat l                      -> ENOENT
    mkdir d
    rename m d/m
    readlink d/m                -> f
    get d/m                     -> ENOENT
    rename d/m ./m
    get m                       -> b'text'

a link replaces a file
    create f 0644 text
    create g 0644 more
    a = open g RDONLY
    symlink f l
    rename l g
    readlink g                  -> f
    get g                       -> b'text'
    read a                      -> b'more'
    ls                          -> f g

a file replaces a link
    create f 0644 text
    create g 0644 more
    symlink f l
    rename g l
    lstat l type                -> -
    get l                       -> b'more'
    get f                       -> b'text'
    ls                          -> f l

a link replaces a link
    symlink a l
    symlink b m
    rename l m
    readlink m                  -> a
    ls                          -> m

links and directories do not replace each other
    mkdir d
    symlink x l
    rename l d                  -> EISDIR
    rename d l                  -> ENOTDIR
    ls                          -> d l

a renamed directory takes its links along
    mkdir d
    mkdir d/e
    create d/f 0644 text
    symlink ../f d/e/l
    rename d g
    get g/e/l                   -> b'text'
    readlink g/e/l              -> ../f
    ls g/e                      -> l

a link belongs to who makes it
    mkdir d
    chmod d 01777
    nobody symlink x d/l
    lstat d/l uid gid           -> 65534 65534
    other unlink d/l            -> EPERM
    other rename d/l d/m        -> EPERM
    nobody unlink d/l
    mkdir e
    nobody symlink x e/l        -> EACCES
""",
)


@dataclass(frozen=True)
class Linked:
    """A disk, and a mount with links."""

    both: Both
    mounted: MountedJob


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Linked]:
    home = tmp_path_factory.mktemp("links")
    for name in ("server", "disk"):
        (home / name).mkdir()
    options = {"allow_other": True} if os.geteuid() == 0 else {}
    with (
        running(EmulatorConfig(behaviour=Behaviour()), home / "server") as server,
        mounting(server, home / "home", local_symlinks=True, **options) as mounted,
        place(home / "disk") as disk,
        place(mounted.path) as mount,
    ):
        yield Linked(Both(disk, mount), mounted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_links_behave_as_on_a_disk(linked: Linked, case: Case) -> None:
    """vfs/semantics.md 2.12: with --local-symlinks a link is kept on this machine only."""
    linked.both.compare(case)


def test_links_survive_a_remount_and_the_server_never_hears_of_them(linked: Linked) -> None:
    """vfs/semantics.md 2.12: the job never sees them; they are kept like scratch names."""
    mounted = linked.mounted
    top = mounted.path / "remounted"
    (top / "bin").mkdir(parents=True)
    (top / "tool").write_bytes(b"text")
    os.symlink("../tool", top / "bin/tool")
    os.symlink("bin", top / "sbin")
    os.rename(top / "bin", top / "libexec")
    os.utime(top / "libexec/tool", ns=(1, 2), follow_symlinks=False)
    mounted.remount()
    assert os.readlink(top / "libexec/tool") == "../tool"
    assert (top / "libexec/tool").read_bytes() == b"text"
    assert (top / "libexec/tool").lstat().st_mtime_ns == 2
    assert os.readlink(top / "sbin") == "bin"
    assert sorted(os.listdir(top)) == ["libexec", "sbin", "tool"]
    assert sorted(path for path in visible(mounted.server) if path.startswith("remounted")) == [
        "remounted",
        "remounted/libexec",
        "remounted/tool",
    ]
    os.unlink(top / "libexec/tool")
    mounted.remount()
    assert os.listdir(top / "libexec") == []

"""A read-only mount answers as a disk that is mounted read-only, and makes no changing request."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.conformance.cases import Case, cases
from tests.conformance.places import Both, place
from tests.support.mounts import mounting

from jobfs.emulator import Behaviour, EmulatorConfig, Server, running

CASES = cases(
    "read only",
    """
what is there is seen
    ls                          -> d f
    ls d                        -> g
    get f                       -> b'text'
    open f
    open d
    access f r

names are not made
    mkdir x                     -> EROFS
    create x                    -> EROFS
    open x CREAT|RDWR           -> EROFS
    mknod x REG                 -> EROFS
    mkfifo x                    -> EROFS
    symlink f x                 -> EROFS
    link f x                    -> EROFS
    create d/x                  -> EROFS

names are not removed
    unlink f                    -> EROFS
    unlink d/g                  -> EROFS
    rmdir d                     -> EROFS

names are not changed
    rename f x                  -> EROFS
    rename f d/g                -> EROFS
    rename d x                  -> EROFS

contents are not changed
    open f WRONLY               -> EROFS
    open f RDWR                 -> EROFS
    open f RDONLY|TRUNC         -> EROFS
    truncate f 0                -> EROFS
    open f CREAT|RDWR           -> EROFS
    a = open f RDONLY
    truncate a 0                -> EINVAL
    write a x                   -> EBADF
    fsync a

attributes are not changed
    chmod f 0600                -> EROFS
    chown f 1 1                 -> EROFS
    utimens f 1 1               -> EROFS
    utimens f NOW NOW           -> EROFS
    chmod d 0700                -> EROFS
    a = open f RDONLY
    chmod a 0600                -> EROFS
    chown a 1 1                 -> EROFS
    utimens a 1 1               -> EROFS

access to write is refused
    access f w                  -> EROFS
    access d w                  -> EROFS
    access f rw                 -> EROFS
    access none w               -> ENOENT

what is there, or is not, is said first
    mkdir d                     -> EEXIST
    mkdir f                     -> EEXIST
    create f                    -> EEXIST
    unlink none                 -> ?
    rmdir none                  -> ?
    rename none x               -> ?
    truncate none 0             -> ENOENT
    chmod none 0600             -> ENOENT
    open none                   -> ENOENT
    unlink f/x                  -> ENOTDIR
    open d WRONLY               -> EISDIR
""",
)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make a directory of the disk read-only"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(EmulatorConfig(behaviour=Behaviour()), tmp_path_factory.mktemp("server")) as server:
        server.store.seed({"f": "text", "d/g": "more"})
        yield server


@pytest.fixture(scope="module")
def read_only(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    home = tmp_path_factory.mktemp("read-only")
    disk = home / "disk"
    (disk / "d").mkdir(parents=True)
    (disk / "f").write_text("text")
    (disk / "d/g").write_text("more")
    with (
        mounting(server, home / "home", read_only=True) as mounted,
        place(disk, read_only=True) as here,
        place(mounted.path) as there,
    ):
        yield Both(here, there, make=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_read_only_mount_answers_as_a_read_only_disk(read_only: Both, server: Server, case: Case) -> None:
    """vfs/semantics.md 4.40: read-only mounts refuse everything that writes with EROFS, and make no changing request."""
    read_only.compare(case)
    assert server.log.changes() == []

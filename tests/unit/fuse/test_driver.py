"""The driver: which call an operation of FUSE becomes, and which errno an error becomes."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import Any

import fuse
import pytest
from tests.support.files import errno_from
from tests.unit.vfs.world import CALLER, World

from jobfs import errors
from jobfs.errors import FsError
from jobfs.fuse.driver import FuseDriver, errno_of, pack_stat, to_vfs_path
from jobfs.fuse.sizes import KernelSizes
from jobfs.nodes import Attr

from .conftest import Hooks
from .kernel import DIRECT_IO, FSYNCDIR, GID, LINK, MKNOD, STATFS, UID, Kernel


def test_a_packed_stat_is_what_c_reads() -> None:
    attr = Attr(2**62 + 1, stat.S_IFREG | 0o640, 1, 1000, 1001, 2**33 + 7, 1, 1_700_000_000_123_456_789, -1)
    packed = pack_stat(attr)
    read = fuse.c_stat.from_buffer_copy(packed.ljust(ctypes.sizeof(fuse.c_stat), b"\0"))
    assert (read.st_ino, read.st_mode, read.st_nlink) == attr[:3]
    assert (read.st_uid, read.st_gid, read.st_size) == attr[3:6]
    assert (read.st_atimespec.tv_sec, read.st_atimespec.tv_nsec) == (0, 1)
    assert (read.st_mtimespec.tv_sec, read.st_mtimespec.tv_nsec) == (1_700_000_000, 123_456_789)
    assert (read.st_ctimespec.tv_sec, read.st_ctimespec.tv_nsec) == (-1, 999_999_999)
    assert read.st_blocks == (2**33 + 7 + 511) // 512


def test_paths_lose_their_slash_and_have_limits() -> None:
    assert to_vfs_path("/") == ""
    assert to_vfs_path("/a/b") == "a/b"
    assert to_vfs_path("/" + "ü" * 127) == "ü" * 127
    assert to_vfs_path("/" + "/".join(["x" * 200] * 5)) == "/".join(["x" * 200] * 5)
    for path in ("/" + "ü" * 128, "/" + "x" * 256, "/" + "/".join(["x" * 200] * 6)):
        with pytest.raises(FsError) as caught:
            to_vfs_path(path)
        assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize(("error", "read", "save", "logged"), [
    (FsError(errno.ENOTEMPTY), errno.ENOTEMPTY, errno.EIO, 0),
    (errors.NotFoundError("gone"), errno.ENOENT, errno.EIO, 0),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), errno.EILSEQ, errno.EIO, 0),
    (errors.InvalidRequestError("422"), errno.EINVAL, errno.EIO, 0),
    (FsError(errno.EOPNOTSUPP), errno.EOPNOTSUPP, errno.EIO, 0),
    (FsError(errno.ENOSYS), errno.ENOSYS, errno.EIO, 0), (errors.TooLargeError("413"), errno.EFBIG, errno.EFBIG, 0),
    (errors.NoSpaceError("507"), errno.ENOSPC, errno.ENOSPC, 0),
    (FsError(errno.EDQUOT), errno.EDQUOT, errno.EDQUOT, 0),
    (errors.UnavailableError("slow", errno=errno.ETIMEDOUT), errno.ETIMEDOUT, errno.ETIMEDOUT, 0),
    (errors.UnavailableError("out of reach", errno=errno.ENETUNREACH), errno.ENETUNREACH, errno.EIO, 0),
    (ValueError("bug"), errno.EIO, errno.EIO, 1), (SystemExit(3), errno.EIO, errno.EIO, 1),
    (PermissionError(errno.EACCES, "of the local disk"), errno.EIO, errno.EIO, 1),
    (OSError(errno.ENOSPC, "full"), errno.ENOSPC, errno.ENOSPC, 1),
])  # fmt: skip
def test_an_error_gives_the_program_its_errno(
    error: BaseException, read: int, save: int, logged: int, caplog: pytest.LogCaptureFixture
) -> None:
    """vfs/semantics.md 5.13: fsync and close never fail with EINVAL, EOPNOTSUPP or ENOSYS. Unexpected errors are logged."""
    caplog.set_level(logging.INFO, "jobfs")
    assert errno_of("truncate", error) == read
    assert [record.exc_info for record in caplog.records] == [None] * logged
    assert [errno_of(operation, error) for operation in ("fsync", "flush")] == [save] * 2


def test_a_call_raises_nothing_but_an_errno(driver: FuseDriver, hooks: Hooks) -> None:
    def failure(operation: str, *args: Any) -> int:
        with pytest.raises(fuse.FuseOSError) as caught:
            driver(operation, *args)
        return int(caught.value.errno)

    assert failure("getattr", "/missing") == errno.ENOENT
    assert failure("no_such_operation") == errno.EIO
    hooks["statfs"] = sys.exit
    assert failure("statfs", "/") == errno.EIO


def test_the_kernel_is_not_invited_to_ask_for_extended_attributes(driver: FuseDriver) -> None:
    for operation in ("getxattr", "setxattr", "listxattr", "removexattr", "opendir", "releasedir", "lock"):
        assert getattr(driver, operation) is None


# Answers that are repeated: the same object comes back


def test_attributes_expire_once_anything_may_have_changed(driver: FuseDriver, world: World) -> None:
    def is_repeated(path: str) -> bool:
        first = driver.getattr(path)
        assert first == pack_stat(world.vfs.getattr(path[1:]))
        return driver.getattr(path) is first

    assert (is_repeated("/file"), is_repeated("/dir")) == (True, True)
    world.seed({"file": b"longer"})
    assert is_repeated("/file")
    world.vfs.create("new", 0o644, os.O_RDWR, CALLER)
    assert (is_repeated("/new"), is_repeated("/file")) == (False, True), "a local file changes by itself"
    world.expire()
    world.server.is_away = True
    assert not is_repeated("/file"), "it is not known for how long it holds"


def test_the_attributes_of_a_listing_are_computed_once(driver: FuseDriver, world: World) -> None:
    """fuse/notes.md, Names and attributes: those of READDIRPLUS are the listing's, as long as these hold."""
    world.seed({"dir/a": b"1", "dir/b": b"2", "dir/c": b"3"})

    def is_repeated(name: str) -> bool:
        found = driver.getattr(f"/dir/{name}", listed=True)
        assert found == pack_stat(world.vfs.getattr(f"dir/{name}"))
        return found is listed[name]

    listed = dict(driver.readdir("/dir"))
    assert listed.keys() == {"a", "b", "c"}
    assert is_repeated("a")
    world.vfs.open("dir/b", os.O_RDWR)
    assert not is_repeated("b"), "it is open: its attributes may change"
    listed = dict(driver.readdir("/dir"))
    world.seed({"dir/d": b"4"})
    assert not is_repeated("c"), "the listing is from before"
    with pytest.raises(FsError):
        driver.getattr("/dir/none", listed=True)
    listed = dict(driver.readdir("/"))
    assert driver.getattr("/other", listed=True) is listed["other"], "in the root, too"


# The size that the kernel has


def test_an_open_of_another_size_makes_the_kernel_look_again(kernel: Kernel, sizes: KernelSizes) -> None:
    """vfs/semantics.md 3.17: the first open of a path by a thread gets ESTALE; its next one is the kernel's second."""
    node, other = kernel.lookup("file").node, kernel.lookup("other").node
    assert kernel.open(node).reply_flags & DIRECT_IO == 0
    sizes.note_sent(node, 2, sizes.logical_clock)
    sizes.note_sent(other, 2, sizes.logical_clock)

    def opened(node: int, thread: int = 1) -> int:
        return errno_from(kernel.open, node, thread=thread)

    assert (opened(node), kernel.notified) == (errno.ESTALE, [node])
    assert (opened(node, thread=2), opened(other)) == (errno.ESTALE, errno.ESTALE), (
        "another thread, another path"
    )
    assert kernel.open(other, thread=1).reply_flags & DIRECT_IO
    assert opened(other) == errno.ESTALE, "that was the kernel's second open"
    assert opened(node) == errno.ESTALE, "the program has opened another file since"


def test_an_open_that_was_refused_is_not_the_first_of_two(
    world: World, kernel: Kernel, sizes: KernelSizes
) -> None:
    """vfs/semantics.md 3.17, 4.38: the kernel repeats only an open that gets ESTALE."""
    node = kernel.lookup("file").node
    world.vfs.chmod("file", 0o444)
    assert errno_from(kernel.open, node, os.O_RDWR) == errno.EACCES
    sizes.note_sent(node, 2, sizes.logical_clock)
    assert errno_from(kernel.open, node) == errno.ESTALE


def test_reads_and_writes_update_the_recorded_kernel_size(
    world: World, kernel: Kernel, sizes: KernelSizes
) -> None:
    """vfs/semantics.md 3.17."""
    file = kernel.open(kernel.lookup("file").node, os.O_RDWR)
    size = sizes.get
    world.seed({"file": b"older"})
    assert (errno_from(kernel.write, file, b"x", 9), size(file.node)) == (errno.ESTALE, 3)
    kernel.write(file, b"DER", 2)
    assert (kernel.read(file, 100), size(file.node)) == (b"olDER", 5)
    sizes.note_sent(file.node, 7, sizes.logical_clock)
    assert (kernel.read(file, 5), size(file.node)) == (b"olDER", 7)
    assert (kernel.read(file, 6), size(file.node)) == (b"olDER", None)


@pytest.mark.parametrize(("new", "expires"), [(b"old", False), (b"older", True)])
def test_a_read_of_a_longer_version_expires_the_kernels_size(
    world: World, kernel: Kernel, new: bytes, expires: bool
) -> None:
    """vfs/semantics.md 3.17: otherwise the program would find the end of the previous version in this one."""
    file = kernel.open(kernel.lookup("file").node)
    assert [kernel.read(file), kernel.read(file, 9, 3)] == [b"old", b""]
    world.seed({"file": new})
    assert kernel.read(file, 9, 3) == new[3:]
    assert kernel.notified == [file.node] * expires


def test_a_read_of_a_shorter_version_leaves_the_kernel_its_attributes(world: World, kernel: Kernel) -> None:
    """fuse/notes.md, What the kernel keeps: else a short read would not lower its size, and zeros would follow."""
    world.seed({"file": bytes(2 << 20)})
    file = kernel.open(kernel.lookup("file").node)
    world.seed({"file": b"short"})
    assert (kernel.read(file), kernel.notified) == (b"short", [])


# Each operation of the kernel, at a Vfs


def names_in(world: World) -> set[str]:
    return {name for name, _ in world.vfs.listdir("")}


def test_a_created_name_belongs_to_the_caller(kernel: Kernel) -> None:
    kernel.mkdir("made", 0o750)
    kernel.create("new", mode=0o640)
    kernel.symlink("link", "dir/target")
    modes = {"made": stat.S_IFDIR | 0o750, "new": stat.S_IFREG | 0o640, "link": stat.S_IFLNK | 0o777}
    for name, mode in modes.items():
        found = kernel.lookup(name).attributes
        assert (found.mode, found.uid, found.gid) == (mode, UID, GID), name
    assert kernel.readlink(kernel.lookup("link").node) == "dir/target"


def test_a_name_is_moved_or_removed(world: World, kernel: Kernel) -> None:
    kernel.rename("file", "new")
    assert names_in(world) == {"new", "other", "dir"}
    kernel.unlink("new")
    kernel.rmdir("dir")
    assert names_in(world) == {"other"}


@pytest.mark.parametrize("opcode", [LINK, MKNOD])
def test_hard_links_and_special_files_are_not_permitted(world: World, kernel: Kernel, opcode: int) -> None:
    """vfs/semantics.md 2.13."""
    before = {
        LINK: struct.pack("=Q", kernel.lookup("file").node), MKNOD: struct.pack("=IIII", stat.S_IFIFO, 0, 0, 0)
    }[opcode]  # fmt: skip
    assert errno_from(kernel.call, opcode, before + b"new\0") == errno.EPERM
    assert names_in(world) == {"file", "other", "dir"}


def test_attributes_are_set(world: World, kernel: Kernel) -> None:
    node = kernel.lookup("file").node
    kernel.setattr(node, mode=stat.S_IFREG | 0o600)
    kernel.setattr(node, uid=5, gid=6)
    kernel.setattr(node, atime=7 * 10**9 + 8, mtime=9 * 10**9 + 10)
    attr = world.vfs.getattr("file")
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.gid) == (0o600, 5, 6)
    assert (attr.atime_ns, attr.mtime_ns) == (7 * 10**9 + 8, 9 * 10**9 + 10)
    kernel.setattr(node, mtime=11)
    attr = world.vfs.getattr("file")
    assert (attr.atime_ns, attr.mtime_ns) == (7 * 10**9 + 8, 11), "a time that is not set stays"


def test_a_file_is_truncated_by_its_name_or_by_a_handle(kernel: Kernel) -> None:
    file = kernel.open(kernel.lookup("file").node, os.O_RDWR)
    kernel.setattr(file.node, size=2)
    assert kernel.read(file) == b"ol"
    kernel.unlink("file")
    kernel.setattr(file.node, size=1, fh=file.handle)
    assert kernel.read(file) == b"o"


def test_a_page_of_a_mapping_is_not_appended(kernel: Kernel) -> None:
    file = kernel.open(kernel.lookup("file").node, os.O_RDWR | os.O_APPEND)
    kernel.write(file, b"OL", 0, mapped=True)
    kernel.write(file, b"er", 0)
    assert kernel.read(file) == b"OLder"


@pytest.mark.parametrize("call", [Kernel.flush, Kernel.fsync])
def test_a_closed_or_synced_file_is_saved(world: World, kernel: Kernel, call: Callable[..., None]) -> None:
    file = kernel.create("new")
    kernel.write(file, b"data")
    call(kernel, file)
    unsent = [entry["path"] for entry in world.vfs.list_unsent()]
    assert unsent == ([] if call is Kernel.fsync else ["new"])
    kernel.call(FSYNCDIR, struct.pack("=QQ", kernel.opendir(), 0))


def test_statfs_has_the_figures_of_the_vfs(world: World, kernel: Kernel) -> None:
    blocks, _, _, files, _, size, name_max = struct.unpack_from("=5Q2I", kernel.call(STATFS))
    figures = world.vfs.statfs()
    assert (files, size, name_max) == (figures["f_files"], figures["f_bsize"], figures["f_namemax"])
    assert blocks > 0

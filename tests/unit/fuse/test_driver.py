"""The driver: which call an operation of FUSE becomes, and which errno an error becomes."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
from typing import Any

import pytest
from tests.mount.memory_vfs import MemoryVfs

fuse = pytest.importorskip("fuse", exc_type=ImportError)

from jobfs import errors  # noqa: E402
from jobfs.errors import FsError  # noqa: E402
from jobfs.fuse.driver import FuseDriver, errno_of, pack_stat, to_vfs_path  # noqa: E402
from jobfs.nodes import Attr  # noqa: E402
from jobfs.vfs import KernelFile  # noqa: E402


class ListedVfs(MemoryVfs):
    """Its answers last as long as its edition, but for those at `unlasting`; `changed`: names, since they were listed."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.unlasting, self.changed = 0, set[str](), set[str]()
        #: The content of `file` from its next read on, if there is another.
        self.next_version: bytes | None = None

    def edition_if_fresh(self) -> int:
        return self.number

    def changes_only_with_edition(self, path: str) -> bool:
        return path not in self.unlasting

    def may_repeat_listed_attr(self, path: str) -> bool:
        return path not in self.changed

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        return [(name, self.getattr(name)) for name in self.nodes if name]

    def read(self, fh: int, size: int, offset: int) -> bytes:
        if self.next_version is not None:
            self.open_files[fh].data[:] = self.next_version
        return super().read(fh, size, offset)


@pytest.fixture
def vfs(monkeypatch: pytest.MonkeyPatch) -> ListedVfs:
    monkeypatch.setattr(fuse, "fuse_get_context", lambda: (11, 22, 33))
    vfs = ListedVfs()
    vfs.put("file", b"content")
    vfs.put("dir", mode=stat.S_IFDIR | 0o755)
    return vfs


@pytest.fixture
def driver(vfs: ListedVfs) -> FuseDriver:
    return FuseDriver(vfs)  # type: ignore[arg-type]


def handle(fh: int = 0, flags: int = os.O_RDWR) -> Any:
    return fuse.fuse_file_info(fh=fh, flags=flags)


def failure(driver: FuseDriver, operation: str, *args: Any) -> int:
    with pytest.raises(fuse.FuseOSError) as caught:
        driver(operation, *args)
    return int(caught.value.errno)


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


def test_a_call_raises_nothing_but_an_errno(driver: FuseDriver, vfs: ListedVfs) -> None:
    def broken(path: str) -> None:
        raise SystemExit

    assert failure(driver, "getattr", "/missing") == errno.ENOENT
    vfs.hooks["getattr"] = broken
    assert failure(driver, "getattr", "/file") == errno.EIO
    assert failure(driver, "no_such_operation") == errno.EIO


def test_the_kernel_is_not_invited_to_ask_for_extended_attributes(driver: FuseDriver) -> None:
    for operation in ("getxattr", "setxattr", "listxattr", "removexattr", "opendir", "releasedir", "lock"):
        assert getattr(driver, operation) is None


def test_attributes_expire_once_anything_may_have_changed(driver: FuseDriver, vfs: ListedVfs) -> None:
    vfs.number, vfs.unlasting = 1, {"dir"}

    def asked(path: str) -> int:
        before = vfs.calls["getattr"]
        assert {driver.getattr(f"/{path}") for _ in range(3)} == {pack_stat(vfs.getattr(path))}
        return vfs.calls["getattr"] - before - 1

    assert asked("file") == 1
    vfs.put("file", b"longer content")
    vfs.number = 2
    assert asked("file") == 1
    assert asked("dir") == 3, "it does not last as long"
    vfs.number = 0
    assert asked("file") == 3, "nobody knows for how long"


def test_the_attributes_of_a_listing_are_computed_once(driver: FuseDriver, vfs: ListedVfs) -> None:
    """fuse/notes.md, Names and attributes: those of READDIRPLUS are the listing's, as long as these hold."""
    vfs.number, vfs.unlasting = 1, {"file", "dir"}

    def computed(path: str) -> int:
        before = vfs.calls["cached_getattr"]
        assert driver.getattr(f"/{path}", listed=True) == pack_stat(vfs.getattr(path))
        return vfs.calls["cached_getattr"] - before

    assert computed("file") == 1, "nothing was listed"
    assert dict(driver.readdir("/")) == {name: pack_stat(vfs.getattr(name)) for name in ("file", "dir")}
    assert (computed("file"), computed("dir")) == (0, 0)
    vfs.changed.add("file")
    assert (computed("file"), computed("dir")) == (1, 0)
    vfs.number = 2
    assert computed("dir") == 1, "the listing is from before"
    vfs.number = 0
    driver.readdir("/")
    assert computed("dir") == 1, "nobody knows for how long it holds"


def test_an_open_passes_on_the_size_that_the_kernel_has(driver: FuseDriver, vfs: ListedVfs) -> None:
    """vfs/semantics.md 3.17: after ESTALE, the same thread's next open of that path is the kernel's second."""

    def opened(path: str = "/file") -> int:
        try:
            driver("open", path, handle())
        except fuse.FuseOSError as error:
            return int(error.errno)
        return 0

    def stale(path: str) -> None:
        raise FsError(errno.ESTALE)

    driver.node = lambda: 11
    assert (opened(), vfs.kernel) == (0, KernelFile(None))
    driver.kernel_sizes.note_sent(11, 7, 0)
    assert (opened(), vfs.kernel) == (0, KernelFile(7))
    vfs.hooks["open"] = stale
    assert (opened(), vfs.kernel) == (errno.ESTALE, KernelFile(7))
    assert (opened(), vfs.kernel) == (errno.ESTALE, KernelFile(7, is_retry=True))
    assert (opened(), vfs.kernel) == (errno.ESTALE, KernelFile(7)), "the program has opened it once more"
    assert (opened("/dir"), vfs.kernel) == (errno.ESTALE, KernelFile(7)), "another path"
    del vfs.hooks["open"]
    assert (opened("/dir"), vfs.kernel) == (0, KernelFile(7, is_retry=True))
    assert (opened("/dir"), vfs.kernel) == (0, KernelFile(7))


def test_reads_and_writes_update_the_recorded_kernel_size(driver: FuseDriver, vfs: ListedVfs) -> None:
    """vfs/semantics.md 3.17."""
    driver.node = lambda: 11
    driver.kernel_sizes.note_sent(11, len(b"content"), 0)
    fi = handle()
    driver.open("/file", fi)
    assert driver.write("/file", memoryview(b"more"), 6, fi) == 4
    assert driver.kernel_sizes.get(11) == 10
    assert driver.read("/file", 100, 0, fi) == b"contenmore"
    assert driver.kernel_sizes.get(11) == 10
    del vfs.nodes["file"].data[5:]
    assert driver.read("/file", 5, 0, fi) == b"conte"
    assert driver.kernel_sizes.get(11) == 10
    assert driver.read("/file", 6, 0, fi) == b"conte"
    assert driver.kernel_sizes.get(11) is None


@pytest.mark.parametrize(("size", "expires"), [(6, False), (7, False), (8, True)])
def test_a_read_of_a_longer_version_expires_the_kernels_size(
    driver: FuseDriver, vfs: ListedVfs, size: int, expires: bool
) -> None:
    """vfs/semantics.md 3.17: the read itself shows a shorter one, or the end of the same one."""
    expired = list[int]()
    driver.node, driver.expire_attributes = lambda: 11, expired.append
    vfs.next_version = b"versions"[:size]
    fi = handle()
    driver.open("/file", fi)
    assert driver.read("/file", 4, 0, fi) == b"vers"
    driver.read("/file", 4, 0, fi)
    assert expired == [11] * expires

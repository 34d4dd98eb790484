# ruff: noqa: D102 - a method without a docstring is the FUSE operation of its name
"""FuseDriver: the adapter between libfuse's protocol and the Vfs. Bytes, numbers and errno in and out.

It is a `fuse.Operations` with raw_fi, with one exception: `getattr` and `readdir` return packed `struct stat`s (`pack_stat`),
which `loop` copies as they are. That serves 1.6 times as many calls per second as filling in fields.
"""

from __future__ import annotations

import errno
import logging
import platform
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import fuse

from jobfs.errors import FsError, JobfsError, UsageError
from jobfs.fuse.events import EventInjector
from jobfs.fuse.sizes import KernelSizes
from jobfs.names import NAME_MAX, PATH_MAX, path_length
from jobfs.nodes import Attr
from jobfs.vfs import Caller, KernelFile

if TYPE_CHECKING:
    from jobfs.vfs import Vfs

_log = logging.getLogger("jobfs.fuse.driver")

#: The buffer size that programs use (`st_blksize`), in bytes: the most that one read request carries (`max_read`). With a larger
#: one, a program that reads only the first line of a file would fetch more of it.
BLOCK_SIZE = 128 * 1024

#: The maximum number of cached attributes.
_MAX_CACHED = 200_000
#: The maximum number of threads whose repeated open is remembered.
_MAX_REOPENING = 1000
#: Errors of a disk that say more to a program than EIO does.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Errors that a save may fail with besides EIO. Editors take some other errnos for "can't be synced here", and report the file as
#: written.
_SAVE_ERRORS = _DISK_ERRORS | {errno.ETIMEDOUT, errno.EBADF, errno.EINTR}
_SAVES = frozenset({"flush", "fsync"})

#: `tv_nsec` of utimensat(2), as fusepy passes it: the seconds are 0 then.
_UTIME_NOW = 0x3FFFFFFF
_UTIME_OMIT = 0x3FFFFFFE


#: `struct stat`: inode number; links and mode, or mode and links; owner, group; size, block size, blocks; times.
_LAYOUTS = {"x86_64": "=8x2Q3I12x9q", "aarch64": "=8xQ4I16xqi4x7q"}
_MACHINE = platform.machine()
if _MACHINE not in _LAYOUTS:
    raise UsageError(f"jobfs runs on {' and '.join(_LAYOUTS)}, and this machine is {_MACHINE}")
_LINKS_FIRST, _SECOND = _MACHINE == "x86_64", 10**9
_pack = struct.Struct(_LAYOUTS[_MACHINE]).pack


def errno_of(operation: str, error: BaseException) -> int:
    """Return the errno that a program gets for `error` (vfs/semantics.md 5 and 5.13). Log an unexpected error."""
    number: int = errno.EIO
    if isinstance(error, (JobfsError, fuse.FuseOSError)):
        number = error.errno
    elif isinstance(error, UnicodeError):
        number = errno.EILSEQ
    else:
        _log.error("%s failed: %r", operation, error)
        _log.debug("%s failed", operation, exc_info=error)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            number = error.errno
    return errno.EIO if operation in _SAVES and number not in _SAVE_ERRORS else number


def to_vfs_path(path: str) -> str:
    """Return the Vfs's form of libfuse's path: no leading slash, the root is "". Raises FsError(ENAMETOOLONG)."""
    path = path[1:]
    if len(path) > NAME_MAX // 4 and (
        path_length(path) > PATH_MAX or any(len(part.encode()) > NAME_MAX for part in path.split("/"))
    ):
        raise FsError(errno.ENAMETOOLONG)
    return path


def pack_stat(attr: Attr) -> bytes:
    """Pack an Attr into this platform's `struct stat`."""
    ino, mode, nlink, uid, gid, size, atime, mtime, ctime = attr
    return _pack(
        ino, *((nlink, mode) if _LINKS_FIRST else (mode, nlink)), uid, gid, size, BLOCK_SIZE, (size + 511) >> 9,
        *divmod(atime, _SECOND), *divmod(mtime, _SECOND), *divmod(ctime, _SECOND),
    )  # fmt: skip


def _current_caller() -> Caller:
    return Caller(*fuse.fuse_get_context())


#: The attribute cache of the edition in which a directory was last listed, and the packed attributes of its entries by path.
_Listing = tuple[dict[str | int, bytes], dict[str, bytes]]
_NO_LISTING: _Listing = ({}, {})


class FuseDriver(fuse.Operations):  # type: ignore[misc]
    """Every FUSE operation, passed on to a Vfs; `fi` is fusepy's raw `fuse_file_info`, valid only during the call.

    Called as fusepy does, it raises nothing but `fuse.FuseOSError`. Operations that are None are left to libfuse or the kernel:
    each would cost a request, and its answer would be the same.
    """

    use_ns = True
    flag_utime_omit_ok = 1

    # With these defined, the kernel asks for security.capability at every write (fuse/notes.md).
    getxattr = setxattr = listxattr = removexattr = None
    # A directory needs no handle; the kernel checks permissions (`default_permissions`) and keeps locks; there are no blocks and
    # no device to control.
    opendir = releasedir = access = lock = bmap = ioctl = None
    destroy = None

    def __init__(self, vfs: Vfs, on_ready: Callable[[], None] = lambda: None, timeout: float = 30.0) -> None:
        """`timeout`: seconds after which a call without progress fails."""
        self.timeout = timeout
        self.vfs = vfs
        self._on_ready = on_ready
        self._attr_cache: tuple[int, dict[str | int, bytes]] = (0, {})
        self._listing = _NO_LISTING
        self.kernel_sizes = KernelSizes()
        #: By thread: the path whose open got ESTALE, so that the kernel looks it up and opens it again.
        self._reopening: dict[int, str] = {}
        #: The node of each open file by its handle; and a function that returns the node of this thread's request.
        self.nodes: dict[int, int] = {}
        self.node: Callable[[], int] = lambda: 0
        #: Makes the kernel ask for the attributes of a node before it uses them again.
        self.expire_attributes: Callable[[int], None] = lambda _: None
        #: Makes the system calls that produce inotify events.
        self.injector = EventInjector(vfs.last_attr)

    def __call__(self, operation: str, *args: Any) -> Any:
        try:
            return getattr(self, operation)(*args)
        except BaseException as error:
            raise fuse.FuseOSError(errno_of(operation, error)) from None

    def init(self, path: str) -> None:
        self._on_ready()

    # Names and attributes

    def getattr(self, path: str, fi: Any = None, *, listed: bool = False) -> bytes:
        """Return packed attributes. `listed`: make no request; raise FsError(ENOENT) for unknown attributes."""
        if fi is not None:
            return pack_stat(self.vfs.fgetattr(fi.fh))
        cache = self.get_attr_cache()
        stat = cache.get(path)
        if stat is None:
            name = to_vfs_path(path)
            stat = self._listed_attr(name, cache) if listed else self._look_up(name)
            if self._attr_cache[0] and self.vfs.changes_only_with_edition(name):
                cache[path] = stat
        return stat

    def _look_up(self, name: str) -> bytes:
        """Return packed attributes. Raises as `Vfs.getattr`; that a name is missing is noted for the calling program."""
        try:
            return pack_stat(self.vfs.getattr(name))
        except FsError as error:
            if error.errno == errno.ENOENT:
                self.vfs.note_missing(name, _current_caller().pid)
            raise

    def get_attr_cache(self) -> dict[str | int, bytes]:
        """Return the cached attributes of the current edition: replies of `getattr` by path, of libfuse by node.

        Attributes that are found after this call belong to the edition read here.
        """
        edition = self.vfs.edition_if_fresh()
        cached_edition, cache = self._attr_cache
        if not edition or edition != cached_edition or len(cache) > _MAX_CACHED:
            cache = {}
            self._attr_cache = (edition, cache)
            self._listing = _NO_LISTING
        return cache

    def readdir(self, path: str, fh: int = 0) -> list[tuple[str, bytes]]:
        cache, directory = self.get_attr_cache(), to_vfs_path(path)
        entries = [(name, pack_stat(attr)) for name, attr in self.vfs.listdir(directory)]
        prefix = f"{directory}/" if directory else ""
        self._listing = (cache, {prefix + name: stat for name, stat in entries})
        return entries

    def _listed_attr(self, name: str, cache: dict[str | int, bytes]) -> bytes:
        """Return the attributes that `readdir` computed for an entry in this edition, or else the cached ones.

        Raises as `Vfs.cached_getattr`.
        """
        listed_in, stats = self._listing
        if listed_in is cache and name in stats and self.vfs.may_repeat_listed_attr(name):
            return stats[name]
        return pack_stat(self.vfs.cached_getattr(name))

    def chmod(self, path: str, mode: int) -> None:
        self.vfs.chmod(to_vfs_path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self.vfs.chown(to_vfs_path(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        now = time.time_ns()
        atime, mtime = times or (_UTIME_NOW, _UTIME_NOW)
        special: dict[int, int | None] = {_UTIME_NOW: now, _UTIME_OMIT: None}
        self.vfs.utimens(to_vfs_path(path), special.get(atime, atime), special.get(mtime, mtime))

    def statfs(self, path: str) -> dict[str, int]:
        return self.vfs.statfs()

    def readlink(self, path: str) -> str:
        return self.vfs.readlink(to_vfs_path(path))

    # The tree

    def mkdir(self, path: str, mode: int) -> None:
        self.vfs.mkdir(to_vfs_path(path), mode, _current_caller())

    def rmdir(self, path: str) -> None:
        self.vfs.rmdir(to_vfs_path(path))

    def unlink(self, path: str) -> None:
        self.vfs.unlink(to_vfs_path(path))

    def rename(self, old: str, new: str) -> None:
        self.vfs.rename(to_vfs_path(old), to_vfs_path(new), _current_caller().pid)

    def symlink(self, target: str, source: str) -> None:
        self.vfs.symlink(to_vfs_path(target), source, _current_caller())

    def link(self, target: str, source: str) -> None:
        raise FsError(errno.EPERM, "the API has no hard links")

    def mknod(self, path: str, mode: int, dev: int) -> None:
        raise FsError(errno.EPERM)  # libfuse creates a regular file by `create`

    # Open files

    def open(self, path: str, fi: Any) -> None:
        thread = _current_caller().pid
        known = KernelFile(self.kernel_sizes.get(self.node()), self._reopening.pop(thread, None) == path)
        try:
            opened = self.vfs.open(to_vfs_path(path), fi.flags, thread, known)
            fi.fh, fi.direct_io, fi.keep_cache = opened
        except JobfsError as error:
            if error.errno == errno.ESTALE and not known.is_retry:
                if len(self._reopening) >= _MAX_REOPENING:
                    self._reopening.clear()
                self._reopening[thread] = path
            raise

    def create(self, path: str, mode: int, fi: Any) -> None:
        fi.fh, fi.direct_io, fi.keep_cache = self.vfs.create(
            to_vfs_path(path), mode, fi.flags, _current_caller()
        )

    def read(self, path: str | None, size: int, offset: int, fi: Any) -> bytes:
        old_size = self.vfs.shown_size(fi.fh)
        data = self.vfs.read(fi.fh, size, offset)
        if len(data) < size:
            self.kernel_sizes.note_end_read(self.node(), offset + len(data))
        if self.vfs.shown_size(fi.fh) > old_size:
            # Otherwise its program would find the end of the previous, shorter version in this one.
            self.expire_attributes(self.node())
        return data

    def write(self, path: str | None, data: memoryview, offset: int, fi: Any) -> int:
        written = self.vfs.write(fi.fh, data, offset, mapped=bool(fi.writepage))
        self.kernel_sizes.note_growth(self.node(), offset + written)
        return written

    def truncate(self, path: str, length: int, fi: Any = None) -> None:
        if fi is None:
            self.vfs.truncate(to_vfs_path(path), length, _current_caller().pid)
        else:
            self.vfs.ftruncate(fi.fh, length)

    def flush(self, path: str | None, fi: Any) -> None:
        self.vfs.flush(fi.fh)

    def fsync(self, path: str | None, datasync: int, fi: Any) -> None:
        self.vfs.fsync(fi.fh)

    def release(self, path: str | None, fi: Any) -> None:
        self.nodes.pop(fi.fh, None)
        self.vfs.release(fi.fh)

    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> None:
        self.vfs.fsyncdir()

"""Vfs: the mounted workspace, without ctypes and without HTTP (vfs/semantics.md). Paths as in names.py; the root is "".

The Vfs itself does nothing: each call goes to the part that has its contract.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobfs import document
from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.errors import JobfsError
from jobfs.namespace import Namespace
from jobfs.namespace.news import News
from jobfs.nodes import Attr, Item, Sent, Version
from jobfs.save import WriteBack, discard, restore, retry
from jobfs.settings import Settings
from jobfs.state import StateDirectory
from jobfs.state.left import left_in
from jobfs.state.server import KnownServer
from jobfs.vfs.attributes import Attributes
from jobfs.vfs.drain import Drain
from jobfs.vfs.files import Files
from jobfs.vfs.handles import Caller, KernelFile, KernelPages, OpenFile, OpenResult
from jobfs.vfs.job_end import JobEnd
from jobfs.vfs.lookup import Lookup
from jobfs.vfs.report import Report
from jobfs.vfs.tree import Tree
from jobfs.vfs.view import View

log = logging.getLogger("jobfs.vfs")


def ask_for_more_descriptors() -> None:
    """Raise this process's limit on descriptors as far as it may be raised."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system may have a lower limit of its own: then the present one stays.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Vfs:
    """The mounted workspace. Every method may be called from any thread and raises JobfsError with an errno."""

    def __init__(
        self,
        settings: Settings,
        directory: StateDirectory,
        client: Client,
        content: ContentStore,
        namespace: Namespace,
        server: KnownServer,
    ) -> None:
        """`directory` holds this mount's unsent work. Raises UsageError if the journal can't be used."""
        state, mount = directory.path, directory.record.mount_id
        self._settings, self._directory = settings, directory
        self._client, self._content, self._namespace = client, content, namespace
        self._write_back = WriteBack(client, namespace, content, state, mount, settings, server)
        self._state = self._write_back.state
        self._view = View(self._write_back, settings)
        self._pages = KernelPages()
        self._report = Report(self._view, directory)
        self._lookup = Lookup(self._view, self._pages, self._report)
        self._files = Files(self._view, self._pages, self._report)
        self._tree = Tree(self._view, self._pages)
        self._attributes = Attributes(self._view)
        self._drain = Drain(self._view)
        self._job_end = JobEnd(self._report, namespace, settings)
        self._stopped = threading.Event()
        #: What the status says of programs that watch; whoever informs them keeps it.
        self.watching = self._report.watching
        #: What an earlier mount left and this one took up, a line each.
        self.taken_up: list[str] = []
        #: How many changes of an earlier mount a read-only mount leaves as they are.
        self.left_alone = 0

    # -- life

    def start(self) -> None:
        """Take up what an earlier mount left, which a read-only mount does not, and begin background work. Raises UsageError."""
        if self._settings.read_only:
            self.left_alone = len(left_in(self._directory.path).told())
            return
        self.taken_up = self._write_back.taken_up = restore(self._write_back)
        self._write_back.start()

    def stop(self) -> None:
        """End background work; open files are closed, what is not on the server stays in the journal."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        try:
            self._files.close_all()
        except JobfsError as error:
            log.error("%s", error)
        self._write_back.stop()

    @property
    def warnings(self) -> list[str]:
        """What the user must know when the mount starts, a sentence each."""
        recovery = self._settings.recovery(self._directory.record.job)
        waiting = (
            f"what an earlier mount has left ({self.left_alone}) is not finished, nor shown here: unmount this, then mount the "
            f"job without --read-only, or {recovery}"
        )
        return self._write_back.warnings + [waiting] * bool(self.left_alone)

    # -- what the server does not have: Drain, WriteBack

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[Sent], None] | None
    ) -> list[document.Unsent]:
        """See Drain."""
        return self._drain.flush_all(path, timeout, progress)

    def tidy(self, timeout: float) -> list[str]:
        """See Drain."""
        return self._drain.tidy(timeout)

    def hidden_of(self, mount: str) -> list[Item]:
        """See Drain."""
        return self._drain.hidden_of(mount)

    def expose(self, mount: str) -> list[str]:
        """See Drain."""
        return self._drain.expose(mount)

    def retry(self, path: str | None = None) -> list[str]:
        """See WriteBack."""
        return retry(self._write_back, path)

    def discard(self, path: str) -> list[tuple[str, str]]:
        """See WriteBack."""
        return discard(self._write_back, path)

    # -- what is kept of saves: CopyStore, Readers

    def forget_save(self, path: str) -> bool:
        """Remove the last save that is kept of a file; False if there is none."""
        return self._state.saves.drop(path)

    def put_back(self, path: str, pid: int) -> None:
        """Note that a process is about to put an old save in the place of `path` without having read what is there."""
        readers = self._state.readers
        readers.replaces_unread(readers.process(pid), path)

    def empty_trash(self) -> None:
        """Remove the copies of bytes that were given up. Call this once everything is on the server."""
        self._state.bytes.empty_trash()

    # -- the mount itself: Report, JobEnd, Namespace, Health

    def status(self) -> document.Status:
        """See Report."""
        return self._report.status()

    def wait_for_job(
        self, timeout: float | None, say: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> document.Job | None:
        """See JobEnd.wait."""
        return self._job_end.wait(timeout, say, cancelled)

    def unsent(self, under: str | None = None) -> list[document.Unsent]:
        """See Report."""
        return self._report.unsent(under)

    def silence(self, since: float) -> str:
        """See Health."""
        return self._client.health.silence(since)

    def refresh(self) -> None:
        """See Namespace."""
        self._namespace.refresh()

    # -- what paths show: Lookup

    def getattr(self, path: str) -> Attr:
        """See Lookup."""
        return self._lookup.getattr(path)

    def looked_up(self, path: str) -> Attr:
        """See Lookup."""
        return self._lookup.looked_up(path)

    def is_as_listed(self, path: str) -> bool:
        """See Lookup."""
        return self._lookup.is_as_listed(path)

    def known(self, path: str) -> Attr:
        """See Lookup."""
        return self._lookup.known(path)

    def attr_of(self, item: Item, path: str = "") -> Attr:
        """See Lookup."""
        return self._lookup.attr_of(item, path)

    def news(self) -> list[News]:
        """See Lookup."""
        return self._lookup.news()

    def look(self) -> None:
        """See Lookup."""
        self._lookup.look()

    def edition(self) -> int:
        """See Lookup."""
        return self._lookup.edition()

    def lasting(self, path: str) -> bool:
        """See Lookup."""
        return self._lookup.lasting(path)

    def others(self, path: str) -> Sequence[OpenFile]:
        """See Lookup."""
        return self._lookup.others(path)

    def is_open(self, path: str) -> bool:
        """See Lookup."""
        return self._lookup.is_open(path)

    def statfs(self) -> dict[str, int]:
        """See Lookup."""
        return self._lookup.statfs()

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        """See Lookup."""
        return self._lookup.listdir(path)

    def readlink(self, path: str) -> str:
        """See Tree."""
        return self._tree.readlink(path)

    # -- attributes: Attributes

    def chmod(self, path: str, mode: int) -> None:
        """See Attributes."""
        self._attributes.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """See Attributes."""
        self._attributes.chown(path, uid, gid)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See Attributes."""
        self._attributes.utimens(path, atime_ns, mtime_ns)

    def info(self, path: str) -> dict[str, Any]:
        """See Attributes."""
        return self._attributes.info(path)

    def set(self, path: str, values: dict[str, Any]) -> None:
        """See Attributes."""
        self._attributes.set(path, values)

    # -- names: Tree

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """See Tree."""
        self._tree.mkdir(path, mode, caller)

    def rmdir(self, path: str) -> None:
        """See Tree."""
        self._tree.rmdir(path)

    def symlink(self, path: str, target: str, caller: Caller) -> None:
        """See Tree."""
        self._tree.symlink(path, target, caller)

    def rename(self, old: str, new: str, pid: int = 0) -> None:
        """See Tree."""
        self._tree.rename(old, new, pid)

    def unlink(self, path: str) -> None:
        """See Tree."""
        self._tree.unlink(path)

    def unlink_version(self, path: str, version: Version, sha256: str) -> bool:
        """See Tree."""
        return self._tree.unlink_version(path, version, sha256)

    def fsyncdir(self) -> None:
        """Bring what this machine knows of changed names to its disk; most are on the server already. Raises FsError(EIO)."""
        self._state.store.sync()

    # -- the kernel's nodes: KernelPages

    def part(self, path: str) -> None:
        """See KernelPages."""
        self._pages.part(path)

    def moved(self, old: str, new: str, *, directory: bool) -> None:
        """See KernelPages."""
        self._pages.moved(old, new, directory=directory)

    # -- open files: Files

    def handle(self, fh: int) -> OpenFile:
        """See Files."""
        return self._files.handle(fh)

    def open(self, path: str, flags: int, pid: int = 0, kernel: KernelFile | None = None) -> OpenResult:
        """See Files."""
        return self._files.open(path, flags, pid, kernel)

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        """See Files."""
        return self._files.create(path, mode, flags, caller)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        """See OpenFile. Raises FsError(EBADF) too."""
        return self._files.handle(fh).read(size, offset)

    def shown_size(self, fh: int) -> int:
        """Return the size of what an open file shows (`OpenFile.known_size`). Raises FsError(EBADF)."""
        return self._files.handle(fh).known_size()

    def write(self, fh: int, data: bytes | memoryview, offset: int, *, mapped: bool = False) -> int:
        """See Files."""
        return self._files.write(fh, data, offset, mapped=mapped)

    def truncate(self, path: str, length: int, pid: int = 0) -> None:
        """See Files."""
        self._files.truncate(path, length, pid)

    def ftruncate(self, fh: int, length: int) -> None:
        """See Files."""
        self._files.ftruncate(fh, length)

    def fgetattr(self, fh: int) -> Attr:
        """Return what `fstat` shows of an open file, unlinked ones too. See OpenFile.attr."""
        return self._files.handle(fh).attr()

    def shown_to(self, handle: OpenFile) -> Attr:
        """See OpenFile.attr."""
        return handle.attr()

    def flush(self, fh: int) -> None:
        """See Files."""
        self._files.flush(fh)

    def fsync(self, fh: int) -> None:
        """See Files."""
        self._files.fsync(fh)

    def release(self, fh: int) -> None:
        """See Files."""
        self._files.release(fh)

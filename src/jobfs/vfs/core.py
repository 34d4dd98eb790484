"""Vfs: the mounted workspace, without ctypes and without HTTP (vfs/semantics.md). Paths as in names.py; the root is "".

The Vfs only delegates: the part that each method names has its contract.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jobfs import document
from jobfs.api.client import Client
from jobfs.content import ContentStore
from jobfs.namespace import Namespace
from jobfs.namespace.differences import Difference
from jobfs.nodes import Attr, Item, SendProgress, Version
from jobfs.save import WriteBack, discard, restore_journal, retry
from jobfs.settings import Settings
from jobfs.state import State, StateDirectory
from jobfs.state.backlog import read_backlog
from jobfs.state.server import KnownServer
from jobfs.vfs.attributes import AttributeOperations
from jobfs.vfs.drain import Drain
from jobfs.vfs.files import FileOperations
from jobfs.vfs.handles import Caller, KernelFile, OpenFile, OpenResult, PageCacheTracker
from jobfs.vfs.job_end import JobEnd
from jobfs.vfs.lookup import LookupOperations
from jobfs.vfs.report import Report
from jobfs.vfs.tree import NameOperations
from jobfs.vfs.view import View


def raise_descriptor_limit() -> None:
    """Raise this process's limit of open descriptors to its hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The system may refuse the hard limit: then the present limit stays.
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
        state: State,
        server: KnownServer,
    ) -> None:
        """`directory`: the state directory of this mount. `stop` closes `state`, too."""
        self._settings, self._directory = settings, directory
        self._client, self._content, self._namespace = client, content, namespace
        mount = directory.record.mount_id
        self._write_back = WriteBack(client, namespace, content, state, mount, settings, server)
        self._state = state
        self._view = View(self._write_back, settings)
        self._pages = PageCacheTracker()
        self._report = Report(self._view, directory)
        self._lookup = LookupOperations(self._view, self._pages, self._report)
        self._files = FileOperations(self._view, self._pages, self._report)
        self._tree = NameOperations(self._view, self._pages)
        self._attributes = AttributeOperations(self._view)
        self._drain = Drain(self._view)
        self._job_end = JobEnd(self._report, namespace, settings)
        self._stopped = threading.Event()
        #: The part of the status about programs that watch files; `ChangeNotifier` in live.py updates it.
        self.watching = self._report.watching
        #: What this mount took up from the journal of an earlier one, a line each.
        self.taken_up: list[str] = []
        #: How many unsent entries of an earlier mount this read-only mount leaves alone.
        self.earlier_unsent_count = 0

    # -- life

    def start(self) -> None:
        """Take up what an earlier mount left in the journal, and start background work; a read-only mount does neither.

        Raises UsageError, ApiError, FsError(EIO).
        """
        if self._settings.read_only:
            self.earlier_unsent_count = len(read_backlog(self._directory.path).to_entries())
            return
        self.taken_up = self._write_back.taken_up = restore_journal(self._write_back)
        self._write_back.start()

    def stop(self) -> None:
        """Close open files and end background work; what is unsent stays in the journal."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._files.close_all()
        self._write_back.close()

    @property
    def warnings(self) -> list[str]:
        """What the user must know when the mount starts, a sentence each."""
        recovery = self._settings.recovery_command(self._directory.record.job)
        waiting = (
            f"unsent work of an earlier mount ({self.earlier_unsent_count}) is neither finished nor shown here: "
            "unmount this, then mount "
            f"the job without --read-only, or run {recovery}"
        )
        return self._write_back.warnings + [waiting] * bool(self.earlier_unsent_count)

    # -- what the server does not have: Drain, save/retry.py

    def flush_all(
        self, path: str | None, timeout: float | None, progress: Callable[[SendProgress], None] | None
    ) -> list[document.Unsent]:
        """See Drain."""
        return self._drain.flush_all(path, timeout, progress)

    def wait_for_cleanup(self, timeout: float) -> list[str]:
        """See Drain."""
        return self._drain.wait_for_cleanup(timeout)

    def hidden_items_of(self, mount: str) -> list[Item]:
        """See Drain."""
        return self._drain.hidden_items_of(mount)

    def expose_hidden_items(self, mount: str) -> list[str]:
        """See Drain."""
        return self._drain.expose_hidden_items(mount)

    def retry(self, path: str | None = None) -> list[str]:
        """See `retry` in save/retry.py."""
        return retry(self._write_back, path)

    def discard(self, path: str) -> list[tuple[str, str]]:
        """See `discard` in save/retry.py."""
        return discard(self._write_back, path)

    # -- what is kept of saves: CopyStore, ReadLog

    def drop_save_copy(self, path: str) -> bool:
        """Remove the copy that is kept of a file's last save; return False if there is none."""
        return self._state.saves.drop(path)

    def note_restore(self, path: str, pid: int) -> None:
        """Note that a process will replace the file at `path` with an old save, and has not read the present version."""
        readers = self._state.read_log
        readers.note_unread_replace(readers.process_of(pid), path)

    def empty_trash(self) -> None:
        """Remove the copies of discarded bytes. Call this once the server has everything."""
        self._state.bytes.empty_trash()

    # -- the mount itself: Report, JobEnd, Namespace, Health

    def status(self) -> document.Status:
        """See Report."""
        return self._report.status()

    def wait_for_job(
        self, timeout: float | None, say: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> document.JobStatus | None:
        """See JobEnd.wait."""
        return self._job_end.wait(timeout, say, cancelled)

    def list_unsent(self, under: str | None = None) -> list[document.Unsent]:
        """See Report."""
        return self._report.list_unsent(under)

    def silence_predicate(self, since: float) -> str:
        """See Health."""
        return self._client.health.silence_predicate(since)

    def refresh(self) -> None:
        """See Namespace."""
        self._namespace.refresh()

    # -- what paths show: LookupOperations

    def getattr(self, path: str) -> Attr:
        """See LookupOperations."""
        return self._lookup.getattr(path)

    def note_missing(self, path: str, pid: int) -> None:
        """See LookupOperations."""
        self._lookup.note_missing(path, pid)

    def cached_getattr(self, path: str) -> Attr:
        """See LookupOperations."""
        return self._lookup.cached_getattr(path)

    def may_repeat_listed_attr(self, path: str) -> bool:
        """See LookupOperations."""
        return self._lookup.may_repeat_listed_attr(path)

    def last_attr(self, path: str) -> Attr:
        """See LookupOperations."""
        return self._lookup.last_attr(path)

    def attr_of_item(self, item: Item, path: str = "") -> Attr:
        """See LookupOperations."""
        return self._lookup.attr_of_item(item, path)

    def take_differences(self) -> list[Difference]:
        """See LookupOperations."""
        return self._lookup.take_differences()

    def refresh_if_stale(self) -> None:
        """See LookupOperations."""
        self._lookup.refresh_if_stale()

    def edition_if_fresh(self) -> int:
        """See LookupOperations."""
        return self._lookup.edition_if_fresh()

    def changes_only_with_edition(self, path: str) -> bool:
        """See LookupOperations."""
        return self._lookup.changes_only_with_edition(path)

    def handles_on_other_versions(self, path: str) -> Sequence[OpenFile]:
        """See LookupOperations."""
        return self._lookup.handles_on_other_versions(path)

    def is_open(self, path: str) -> bool:
        """See LookupOperations."""
        return self._lookup.is_open(path)

    def statfs(self) -> dict[str, int]:
        """See LookupOperations."""
        return self._lookup.statfs()

    def listdir(self, path: str) -> list[tuple[str, Attr]]:
        """See LookupOperations."""
        return self._lookup.listdir(path)

    def readlink(self, path: str) -> str:
        """See NameOperations."""
        return self._tree.readlink(path)

    # -- attributes: AttributeOperations

    def chmod(self, path: str, mode: int) -> None:
        """See AttributeOperations."""
        self._attributes.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """See AttributeOperations."""
        self._attributes.chown(path, uid, gid)

    def utimens(self, path: str, atime_ns: int | None, mtime_ns: int | None) -> None:
        """See AttributeOperations."""
        self._attributes.utimens(path, atime_ns, mtime_ns)

    def info(self, path: str) -> dict[str, Any]:
        """See AttributeOperations."""
        return self._attributes.info(path)

    def upload_then_set_attributes(self, path: str, values: dict[str, Any]) -> None:
        """See AttributeOperations."""
        self._attributes.upload_then_set_attributes(path, values)

    # -- names: NameOperations

    def mkdir(self, path: str, mode: int, caller: Caller) -> None:
        """See NameOperations."""
        self._tree.mkdir(path, mode, caller)

    def rmdir(self, path: str) -> None:
        """See NameOperations."""
        self._tree.rmdir(path)

    def symlink(self, path: str, target: str, caller: Caller) -> None:
        """See NameOperations."""
        self._tree.symlink(path, target, caller)

    def rename(self, old: str, new: str, pid: int = 0) -> None:
        """See NameOperations."""
        self._tree.rename(old, new, pid)

    def unlink(self, path: str) -> None:
        """See NameOperations."""
        self._tree.unlink(path)

    def unlink_if_version(self, path: str, version: Version, sha256: str) -> bool:
        """See NameOperations."""
        return self._tree.unlink_if_version(path, version, sha256)

    def fsyncdir(self) -> None:
        """Sync the journal and local bytes; most changes of names are on the server already. Raises FsError(EIO)."""
        self._state.store.sync()

    # -- the kernel's nodes: PageCacheTracker

    def note_node_detached(self, path: str) -> None:
        """See PageCacheTracker."""
        self._pages.note_node_detached(path)

    def note_node_moved(self, old: str, new: str, *, directory: bool) -> None:
        """See PageCacheTracker."""
        self._pages.note_node_moved(old, new, directory=directory)

    # -- open files: FileOperations

    def get_handle(self, fh: int) -> OpenFile:
        """See FileOperations."""
        return self._files.get_handle(fh)

    def open(self, path: str, flags: int, pid: int = 0, kernel: KernelFile | None = None) -> OpenResult:
        """See FileOperations."""
        return self._files.open(path, flags, pid, kernel)

    def create(self, path: str, mode: int, flags: int, caller: Caller) -> OpenResult:
        """See FileOperations."""
        return self._files.create(path, mode, flags, caller)

    def read(self, fh: int, size: int, offset: int) -> bytes:
        """See OpenFile. Raises FsError(EBADF) too."""
        return self._files.get_handle(fh).read(size, offset)

    def shown_size(self, fh: int) -> int:
        """Return the size, in bytes, that an open file shows (`OpenFile.shown_size`). Raises FsError(EBADF)."""
        return self._files.get_handle(fh).shown_size()

    def write(self, fh: int, data: bytes | memoryview, offset: int, *, mapped: bool = False) -> int:
        """See FileOperations."""
        return self._files.write(fh, data, offset, mapped=mapped)

    def truncate(self, path: str, length: int, pid: int = 0) -> None:
        """See FileOperations."""
        self._files.truncate(path, length, pid)

    def ftruncate(self, fh: int, length: int) -> None:
        """See FileOperations."""
        self._files.ftruncate(fh, length)

    def fgetattr(self, fh: int) -> Attr:
        """Return what `fstat` shows of an open file, even if it is unlinked. See OpenFile.attr. Raises FsError(EBADF)."""
        return self._files.get_handle(fh).attr()

    def attr_for_handle(self, handle: OpenFile) -> Attr:
        """Return what `fstat` shows of an open file (`OpenFile.attr`)."""
        return handle.attr()

    def flush(self, fh: int) -> None:
        """See FileOperations."""
        self._files.flush(fh)

    def fsync(self, fh: int) -> None:
        """See FileOperations."""
        self._files.fsync(fh)

    def release(self, fh: int) -> None:
        """See FileOperations."""
        self._files.release(fh)

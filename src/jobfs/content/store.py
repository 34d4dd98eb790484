"""The content cache: contents by version, downloaded once, kept on disk (vfs/semantics.md 3).

One lock guards the fetchers, the open handles, the ranges of available bytes, and the index of the disk. It is never held
across I/O.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

from jobfs.api.client import Client, Download
from jobfs.api.deadline import call_blocking_hook
from jobfs.content.disk import CacheFile, DiskCache
from jobfs.content.fetcher import Fetcher
from jobfs.content.proof import VersionProof, is_racy
from jobfs.content.ranges import NEAR, SequentialRun
from jobfs.content.timing import Timing
from jobfs.content.transfer import TransferPool
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError
from jobfs.nodes import Item, Version, has_subsecond

_log = logging.getLogger("jobfs.content")


class ContentHandle:
    """An open handle on one version's content; the version is pinned until `close`.

    `size` is in bytes, or None until the first read if the item has no size. Threads may share a handle. The first read
    begins the download, so pages that the kernel has kept cost no request.
    """

    __slots__ = (
        "_closed",
        "_fetcher",
        "_file",
        "_is_opened_whole",
        "_run",
        "_store",
        "item",
        "size",
        "version",
    )

    def __init__(self, store: ContentStore, item: Item) -> None:
        self.item = item
        self.version = item.version
        self.size: int | None = None
        self._store = store
        self._is_opened_whole = False  # the cache had the whole content when the handle was opened
        self._file: CacheFile | None = None  # that file, from the first read on
        self._fetcher: Fetcher | None = None  # from the first read on, unless the cache has the file
        self._run: SequentialRun | None = None
        self._closed = False

    @property
    def is_complete(self) -> bool:
        """Whether every byte is on this machine, and stays there until `close` unless a user clears the cache."""
        return self._is_opened_whole if self._fetcher is None else self._fetcher.cached.is_complete

    @property
    def is_stale(self) -> bool:
        """Whether the server is known to have another version."""
        return self._fetcher is not None and self._fetcher.proof.stale is not None

    def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, fewer only at the end of the file (vfs/semantics.md 3).

        Waits until those bytes are here, at most `timeout` seconds without progress. Raises ApiError: UnavailableError,
        NotFoundError, StaleVersionError (look up and open again), ContractError. Raises FsError if the local disk fails. A
        read that `close` overtakes still gets its bytes.
        """
        file = self._file or self._open_complete_file()
        if file is not None:
            wanted = min(size, max((self.size or 0) - offset, 0))
            with contextlib.suppress(OSError):
                data = os.pread(file.fd, wanted, offset)
                if len(data) == wanted:
                    return data
        fetcher = self._get_fetcher()
        self._run = self._run or SequentialRun()
        return fetcher.read(self._run, offset, size)

    def _open_complete_file(self) -> CacheFile | None:
        """Return the file with the whole content; None if it is not here, or was lost."""
        if self._is_opened_whole and self._fetcher is None:
            self._file = self._store.open_complete_file(self)
        return self._file or self._get_fetcher().cached.complete_file

    def wait_for_first_byte(self) -> None:
        """Wait for the first byte, if there is one: it proves that the server has this version. Raises as `read` does."""
        if not self.is_complete:
            fetcher = self._get_fetcher()
            fetcher.proof.raise_if_stale()
            fetcher.read(SequentialRun(), 0, 1)

    def fetch_file(self) -> Path:
        """Fetch everything; return the path of the complete file, which is read-only and valid until `close`.

        Bytes that the disk of the cache rejects go to that of the state directory. Raises ApiError as `read` does, FsError if
        neither can hold the file, FsError(EBADF) if the handle is closed.
        """
        if self._closed:
            raise FsError(errno.EBADF)
        return self._get_fetcher().fetch_file()

    def fetch_for_later(self) -> None:
        """Fetch everything in this thread, behind transfers that readers wait for.

        Raises ApiError if the size must be measured and can't be; readers meet other errors themselves.
        """
        if not self.is_complete:
            self._get_fetcher().fetch_missing()

    def compute_sha256(self) -> str | None:
        """Return the SHA-256 of the whole content in hex; None if part of it is missing, or it can't be read."""
        if self._closed or not self._get_fetcher().cached.is_complete:
            return None
        call_blocking_hook()
        with contextlib.suppress(OSError, JobfsError), self.fetch_file().open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            if file.tell() == self.size:
                return digest.hexdigest()
        return None

    def close(self) -> None:
        """Unpin this version; a download that only this handle wanted stops soon. May be called again."""
        self._store.close_handle(self)

    def __enter__(self) -> ContentHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get_fetcher(self) -> Fetcher:
        return self._fetcher or self._store.attach_fetcher(self)


class ActiveDownloads:
    """The unfinished downloads, with open handles, of an item that this mount changes; false if there are none."""

    def __init__(self, proofs: list[VersionProof]) -> None:
        self._proofs = proofs

    def __bool__(self) -> bool:
        return bool(self._proofs)

    def accept_as_same_version(self, before: Item, after: Item) -> None:
        """Let the `updatedAt` of `after`, the reply to our change, name the same version as that of `before`.

        `before` must be the item just before the change; otherwise a write by the job would be hidden from readers.
        """
        for proof in self._proofs:
            proof.accept_as_same_version(before, after)


class ContentStore:
    """Contents by version, shared by all handles; thread-safe.

    `directory`: the cache directory of one mount, made with mode 0700; complete contents stay in it across remounts. `owner`:
    that mount's state directory. `limit` is in bytes, `timeout` in seconds without progress. `ranges`: whether the server has
    ranges, None if that is unknown. `most_ahead`: the most bytes that are fetched ahead at once, because on a slow line, they
    compete with the bytes that readers wait for.
    """

    def __init__(
        self,
        client: Client,
        directory: Path,
        *,
        owner: Path,
        limit: int,
        timeout: float = 30.0,
        ranges: bool | None = None,
        most_ahead: int = 4 << 20,
        timing: Timing | None = None,
    ) -> None:
        self._owner = owner
        self._lock = threading.RLock()
        self._disk = DiskCache(directory, limit, self._lock, state_directory=owner)
        self._pool = TransferPool(client, self._lock, timeout, ranges, timing or Timing())
        # Fetching ahead leaves two connections free, because the program that it serves may be waiting for another file.
        self._most = max(1, client.max_connections - 2)
        self._ahead = ThreadPoolExecutor(self._most, "jobfs-ahead")
        self._running = self._bytes = 0  # jobs that fetch ahead now, and their bytes
        self._most_ahead = most_ahead
        # Large background downloads get a quarter of the connections (api/connection_queue.py).
        self._edited = ThreadPoolExecutor(max(1, client.max_connections // 4), "jobfs-edited")
        #: A fetcher lives while a handle is open or a transfer is running.
        self._fetchers: WeakValueDictionary[Version, Fetcher] = WeakValueDictionary()
        self._ahead.submit(self._evict_and_remove_orphans)

    # -- handles ------------------------------------------------------------------------------------------

    def open(self, item: Item) -> ContentHandle:
        """Open a handle on the version that `item` shows, without a request."""
        content = ContentHandle(self, item)
        content.size = self._disk.pin_and_get_size(content.version)
        content._is_opened_whole = content.size is not None
        if not content._is_opened_whole and self.known_size(item) is not None:
            self.attach_fetcher(content)
        return content

    def open_complete_file(self, content: ContentHandle) -> CacheFile | None:
        """Open the file of a content that was whole when its handle was opened; None if the file is missing or damaged."""
        return self._disk.open_complete(content.version, content.size or 0)

    def attach_fetcher(self, content: ContentHandle) -> Fetcher:
        """Return the fetcher of a handle's version, and pin the version until the handle is closed.

        A handle that was closed already keeps the fetcher for its current read only. Raises as `measure_size`.
        """
        version, size = content.version, self.measure_size(content.item)
        with self._lock:
            if content._fetcher is not None:
                return content._fetcher
            fetcher = self._fetchers.get(version)
            if fetcher is None or fetcher.cached.size != size or not fetcher.may_be_shared():
                fetcher = self._fetchers[version] = Fetcher(content.item, size, self._pool, self._disk)
            content.size, content._file = size, None
            if content._closed or content._is_opened_whole:
                fetcher.proof.require_verification()  # the program may already have bytes
            if not content._closed:
                content._fetcher = fetcher
                fetcher.cached.pins += 1
        fetcher.use_disk_content()
        return fetcher

    def close_handle(self, content: ContentHandle) -> None:
        """Close a handle; transfers that only it wanted stop soon."""
        with self._lock:
            if content._closed:
                return
            content._closed, content._is_opened_whole = True, False
            self._disk.unpin(content.version)
            if content._fetcher is not None:
                content._fetcher.cached.unpin()
            content._fetcher = None
        content._file = None  # without the lock: this closes the file

    # -- changes by this mount ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def exclude_verification(self, item: Item) -> Iterator[ActiveDownloads]:
        """For the block, in which the caller changes `item`, keep readers from verifying its version.

        Yields the downloads that this concerns. Enter the block before a connection is held: a reader that is asking may be
        waiting for one.
        """
        with contextlib.ExitStack() as stack:
            with self._lock:
                same = [fetcher for version, fetcher in self._fetchers.items() if version.item_id == item.id]
            proofs = [fetcher.proof for fetcher in same if fetcher.is_being_read(item)]
            for proof in proofs:
                stack.enter_context(proof.hold_version_exclusively())
            yield ActiveDownloads(proofs)

    # -- fetching ahead -----------------------------------------------------------------------------------

    def prefetch_items(self, next_item: Callable[[], Item | None], count: int) -> None:
        """Fetch the items that `next_item` returns, behind readers, until it returns None (vfs/semantics.md 3).

        At most `count` are fetched at once. The next item is requested only when a thread is free, so that no item waits in a
        queue after it has become useless.
        """
        with self._lock:
            more = 0 if self._pool.closed else max(0, min(self._most - self._running, count))
            self._running += more
            for _ in range(more):
                self._ahead.submit(self._prefetch_until_none, next_item)

    def _prefetch_until_none(self, next_item: Callable[[], Item | None]) -> None:
        try:
            while (item := next_item() if self._bytes < self._most_ahead else None) is not None:
                self._fetch_for_prefetch(item)
        except Exception:
            _log.exception("fetching ahead failed: it begins again with the next read")
        finally:
            with self._lock:
                self._running -= 1

    def _fetch_for_prefetch(self, item: Item) -> None:
        size = self.known_size(item) or 0
        with self._lock:
            self._bytes += size
        try:
            with self.open(item) as content:
                content.fetch_for_later()
        except JobfsError as error:
            _log.info("%s: not fetched ahead: %s", item.path, error)
        finally:
            with self._lock:
                self._bytes -= size

    def fetch_in_background(self, content: ContentHandle) -> None:
        """Begin to fetch a version that is about to be edited, behind readers and saves; errors are left to readers."""
        with contextlib.suppress(RuntimeError):  # the store is closed
            self._edited.submit(content.fetch_for_later)

    def needs_download(self, item: Item) -> bool:
        """Return whether a reader of this version would begin a download."""
        fetcher = self._fetchers.get(item.version)
        return not (
            fetcher is not None and (fetcher.cached.is_complete or fetcher.transfers)
        ) and not self.is_cached(item)

    def may_share_download(self, item: Item) -> bool:
        """Return whether a download that begins now would also serve handles opened later (see proof.is_racy)."""
        racy = is_racy(item.updated_ns, self._pool.timing.clock() + self._pool.client.server_time_offset)
        return not racy and (item.size or 0) <= self._disk.limit

    # -- bytes that were saved here ------------------------------------------------------------------------

    def create_partial_from(self, source: Path) -> CacheFile | None:
        """Return an unfinished file for `adopt_file`, a link to `source` or a copy; None if neither works.

        `source` must not be written again.
        """
        try:
            size = os.stat(source).st_size
            return self._disk.create_partial_from(source, size) if size <= self._disk.limit else None
        except (OSError, FsError) as error:
            _log.warning("a saved file can't be kept in the content cache: %s", error)
            return None

    def drop_replaced(self, version: Version) -> None:
        """Remove the content of a version that this mount has replaced, unless a handle has it open."""
        self._disk.remove_unless_pinned(version)

    def remember_size(self, item: Item, size: int) -> None:
        """Note the size of a version that was made here, if its item has none."""
        if item.size is None:
            self._pool.sizes.remember(item.version, size)

    def adopt_file(self, item: Item, file: CacheFile) -> None:
        """Make a file from `create_partial_from` the content of the version that `item` shows.

        Open handles use the file, and later ones if it can be kept. This only fills a cache: if it fails, readers download
        the bytes. Call `evict_to_limit` afterwards, because the cache may exceed its limit; callers hold locks here, so this
        method does not.
        """
        size, kept = os.fstat(file.fd).st_size, False
        if size == 0 or item.size not in (None, size):
            return
        # If `updatedAt` has whole seconds, the job may have written within the same one: then later handles do not get these
        # bytes.
        if size <= self._disk.limit and (has_subsecond(item.updated_ns) or self.may_share_download(item)):
            kept = self._disk.commit(file, item.version, size)
        fetcher = self._fetchers.get(item.version)
        if fetcher is not None and fetcher.cached.size == size and not fetcher.cached.is_complete:
            if not kept:
                fetcher.proof.first_request_at = self._pool.timing.clock()
            fetcher.install_file(file)

    def evict_to_limit(self) -> None:
        """Bring the cache under its limit. This may remove thousands of files: call it with no lock held."""
        self._disk.evict_to_limit()

    def evict_on_disk_of(self, directory: Path, size: int) -> bool:
        """Evict cached contents until `size` bytes are free for unsent bytes on the disk of `directory`.

        Return True if anything was removed, False if the cache is on another disk or has nothing to remove.

        This may remove thousands of files: call it with no lock held.
        """
        try:
            same_disk = os.stat(directory).st_dev == os.stat(self._disk.directory).st_dev
        except OSError:
            return False
        return same_disk and self._disk.evict_bytes(size)

    # -- queries ------------------------------------------------------------------------------------------

    def is_cached(self, item: Item) -> bool:
        """Return whether a handle opened now would read this version from the disk alone."""
        fetcher = self._fetchers.get(item.version)
        return (
            self._disk.complete_size(item.version) is not None
            if fetcher is None
            else fetcher.cached.is_complete
        )

    def used_bytes(self) -> int:
        """Return the bytes in the cache, unfinished downloads included."""
        return self._disk.used_bytes

    @property
    def refusal_reason(self) -> str:
        """Why the disk of the cache currently takes no bytes; "" if it does."""
        return self._disk.refusal_reason

    def known_size(self, item: Item) -> int | None:
        """Return the size of a version in bytes, from the item or from memory; None if it must be measured."""
        if item.size is not None:
            return item.size
        size = self._pool.sizes.get(item.version)
        return self._disk.complete_size(item.version) if size is None else size

    def measure_size(self, item: Item) -> int:
        """Return the size of a version in bytes, from the server if it is unknown (vfs/semantics.md 2.2). Raises ApiError.

        The size is what the headers of a download say, or else the number of bytes that come. Small contents are kept.
        """
        size = self.known_size(item)
        if size is not None:
            return size
        began = self._pool.timing.clock()
        with self._pool.client.download(item.id) as body:
            size, data = _read_size_and_small_body(body, self._disk.limit)
        self._pool.sizes.remember(item.version, size)
        if data:
            fetcher = Fetcher(item, size, self._pool, self._disk)
            fetcher.proof.first_request_at = began
            with contextlib.suppress(FsError):
                fetcher.cached.store_bytes(0, data)
                fetcher.finish_if_complete()
        return size

    def close(self) -> None:
        """Abort every request of the client, answer every reader, and remove unfinished contents."""
        with self._lock:
            self._pool.closed = True
            for fetcher in self._fetchers.values():
                fetcher.cached.cond.notify_all()
        self._pool.close()
        for pool in (self._ahead, self._edited):
            pool.shutdown(cancel_futures=True)
        self._disk.close()

    def _evict_and_remove_orphans(self) -> None:
        """Bring the cache under its limit, and remove the caches of mounts whose state is gone; runs in the background."""
        self._disk.evict_to_limit()
        with contextlib.suppress(OSError):  # already logged: the cache can't be used
            self._disk.record_owner(self._owner)
            self._disk.remove_orphaned_caches()


def _read_size_and_small_body(body: Download, max_bytes: int) -> tuple[int, bytes]:
    """Return the size of a body, and its bytes if they are few, else b"".

    Raises ApiError, ContractError if more than `max_bytes` come.
    """
    count, data = 0, bytearray()
    if body.length is not None and body.length > NEAR:
        return body.length, b""
    try:
        for chunk in body.chunks():
            count += len(chunk)
            if count <= NEAR:
                data += chunk
            elif count > max_bytes:
                raise ContractError(
                    f"download: the size is unknown, and more than {max_bytes} bytes came: raise --cache-size"
                )
    except UnavailableError:
        if body.length is None:
            raise
        return body.length, b""
    return count, bytes(data) if count <= NEAR else b""

"""The content cache: contents by version, downloaded once, kept on disk (vfs/semantics.md 3).

One lock guards which fetcher stands for which version, which handles are open, which bytes are there, and the index of the disk.
It is never held across I/O.
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
from jobfs.api.deadline import announce_blocking, steady_time
from jobfs.content.disk import CacheFile, DiskCache
from jobfs.content.fetcher import Fetcher
from jobfs.content.proof import VersionProof, is_racy
from jobfs.content.ranges import NEAR, SequentialRun
from jobfs.content.transfer import TransferPool
from jobfs.errors import ContractError, FsError, JobfsError, UnavailableError
from jobfs.nodes import Item, Version, has_subsecond

_log = logging.getLogger("jobfs.content")

#: Bytes that may be fetched ahead at once: on a slow line they share it with the bytes that readers wait for.
_UNDER_WAY = 4 << 20


class ContentHandle:
    """An open handle on one version's content; the version is pinned until `close`.

    `size` is in bytes, None if it is not known before somebody reads. Handles may be shared by threads. The first read begins the
    download: pages that the kernel has kept cost no request.
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
        self._is_opened_whole = False  # it was whole in the cache when it was opened
        self._file: CacheFile | None = None  # that file, from the first read on
        self._fetcher: Fetcher | None = None  # from the first read on, unless the cache has the file
        self._run: SequentialRun | None = None
        self._closed = False

    @property
    def is_complete(self) -> bool:
        """True if every byte is on this machine, and stays there until `close`, unless a user clears the cache."""
        return self._is_opened_whole if self._fetcher is None else self._fetcher.cached.is_complete

    @property
    def is_stale(self) -> bool:
        """True if the server was seen not to have these bytes any more."""
        return self._fetcher is not None and self._fetcher.proof.stale is not None

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the file (vfs/semantics.md 3).

        Waits until those bytes are there, at most `timeout` seconds without progress. Raises ApiError:
        UnavailableError, NotFoundError, StaleVersionError (look up and open again), ContractError. Raises
        FsError: what the local disk says. A read that `close` overtakes still gets its bytes.
        """
        file = self._file or self._whole_file()
        if file is not None:
            wanted = min(size, max((self.size or 0) - offset, 0))
            with contextlib.suppress(OSError):
                data = os.pread(file.fd, wanted, offset)
                if len(data) == wanted:
                    return data
        fetcher = self._get_fetcher()
        self._run = self._run or SequentialRun()
        return fetcher.read(self._run, offset, size)

    def _whole_file(self) -> CacheFile | None:
        """Return the file that has the whole content; None if it is not here, or was lost."""
        if self._is_opened_whole and self._fetcher is None:
            self._file = self._store.open_whole(self)
        return self._file or self._get_fetcher().cached.complete_file

    def wait_for_first_byte(self) -> None:
        """Wait for the first byte, if there is one: then the server has answered for this version. Raises as `read` does."""
        if not self.is_complete:
            fetcher = self._get_fetcher()
            fetcher.proof.raise_if_stale()
            fetcher.read(SequentialRun(), 0, 1)

    def fetch_file(self) -> Path:
        """Bring everything; a file with the whole content, not to be written to, valid until `close`.

        Raises ApiError as `read` does, FsError(ENOSPC) if the disk of the cache has no room for it, FsError(EBADF) if it is
        closed meanwhile.
        """
        if self._closed:
            raise FsError(errno.EBADF)
        return self._get_fetcher().fetch_file()

    def fetch_for_later(self) -> None:
        """Bring everything, in this thread and behind transfers that readers wait for; errors are left to readers."""
        if not self.is_complete:
            self._get_fetcher().fetch_missing()

    def compute_sha256(self) -> str | None:
        """SHA-256 in hex of the whole content; None if it is not here whole, or can't be read."""
        if self._closed or not self._get_fetcher().cached.is_complete:
            return None
        announce_blocking()
        with contextlib.suppress(OSError, JobfsError), self.fetch_file().open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            if file.tell() == self.size:
                return digest.hexdigest()
        return None

    def close(self) -> None:
        """Unpin this version; a download that only this handle wanted stops soon. May be called again."""
        self._store.release(self)

    def __enter__(self) -> ContentHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get_fetcher(self) -> Fetcher:
        return self._fetcher or self._store.attach(self)


class ActiveDownloads:
    """The unfinished downloads, with open handles, of one version of an item that this mount changes; false if there are none."""

    def __init__(self, proofs: list[VersionProof]) -> None:
        self._proofs = proofs

    def __bool__(self) -> bool:
        return bool(self._proofs)

    def carry_over_version(self, before: Item, after: Item) -> None:
        """Let the `updatedAt` of `after`, the answer to our change, stand for the same version as that of `before`.

        `before` is the item as it was just before the change: else a write of the job would be hidden from readers.
        """
        for proof in self._proofs:
            proof.carry_over(before, after)


class ContentStore:
    """Contents by version, shared by all handles; thread-safe.

    `directory`, made with mode 0700, is that of one mount, whose state directory is `owner`; whole contents stay in
    it across remounts. `limit` is in bytes. `timeout` is in seconds without progress. `ranges`: whether the
    server has them, as far as that is known.
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
    ) -> None:
        self._owner = owner
        self._lock = threading.RLock()
        self._disk = DiskCache(directory, limit, self._lock)
        self._pool = TransferPool(client, self._lock, timeout, ranges)
        # Fetching ahead leaves two connections free: the program that it serves may itself be waiting for another file.
        self._most = max(1, client.max_connections - 2)
        self._ahead = ThreadPoolExecutor(self._most, "jobfs-ahead")
        self._running = self._bytes = 0  # jobs and bytes that are fetched ahead now
        # Large downloads of the background get a quarter of the connections (api/connection_queue.py).
        self._edited = ThreadPoolExecutor(max(1, client.max_connections // 4), "jobfs-edited")
        #: A fetcher lives as long as a handle is open, or a transfer is running.
        self._fetchers: WeakValueDictionary[Version, Fetcher] = WeakValueDictionary()
        self._ahead.submit(self._evict_and_remove_orphans)

    # -- handles ------------------------------------------------------------------------------------------

    def open(self, item: Item) -> ContentHandle:
        """A handle on the version that `item` shows; no request is made."""
        content = ContentHandle(self, item)
        content.size = self._disk.pin(content.version)
        content._is_opened_whole = content.size is not None
        if not content._is_opened_whole and self.known_size(item) is not None:
            self.attach(content)
        return content

    def open_whole(self, content: ContentHandle) -> CacheFile | None:
        """Return the file of a content that was whole when it was opened; None if it is gone by now, or damaged."""
        return self._disk.open_complete(content.version, content.size or 0)

    def attach(self, content: ContentHandle) -> Fetcher:
        """Return the one fetcher of a handle's version, and pin the version until the handle is closed.

        A handle that is closed by now holds the fetcher no longer than it reads. Raises as `measure_size`.
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
                fetcher.proof.require_verification()  # its program may have got bytes already
            if not content._closed:
                content._fetcher = fetcher
                fetcher.cached.pins += 1
        fetcher.check_disk()
        return fetcher

    def release(self, content: ContentHandle) -> None:
        """A handle is closed: transfers that only it wanted stop soon."""
        with self._lock:
            if content._closed:
                return
            content._closed, content._is_opened_whole = True, False
            self._disk.unpin(content.version)
            if content._fetcher is not None:
                content._fetcher.cached.unpin()
            content._fetcher = None
        content._file = None  # without the lock: this closes it

    # -- changed by this mount ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def exclude_verification(self, item: Item) -> Iterator[ActiveDownloads]:
        """In this block the caller changes `item`, and no reader asks whether the server still shows its version.

        Enter it before a connection is held: a reader that is asking may be waiting for one.
        """
        with contextlib.ExitStack() as stack:
            with self._lock:
                same = [fetcher for version, fetcher in self._fetchers.items() if version.item_id == item.id]
            proofs = [fetcher.proof for fetcher in same if fetcher.is_being_read(item)]
            for proof in proofs:
                stack.enter_context(proof.exclude_other_askers())
            yield ActiveDownloads(proofs)

    # -- fetched ahead ------------------------------------------------------------------------------------

    def prefetch_items(self, next_item: Callable[[], Item | None], count: int) -> None:
        """Fetch the contents of the items that `next_item` gives, `count` at once and behind readers, until it gives None
        (section 3).

        The next item is asked for only when a thread is free for it, so no item is queued that nobody wants any more.
        """
        with self._lock:
            more = 0 if self._pool.closed else max(0, min(self._most - self._running, count))
            self._running += more
            for _ in range(more):
                self._ahead.submit(self._prefetch_until_none, next_item)

    def _prefetch_until_none(self, next_item: Callable[[], Item | None]) -> None:
        try:
            while (item := next_item() if self._bytes < _UNDER_WAY else None) is not None:
                self._fetch_one(item)
        except Exception:
            _log.exception("fetching ahead ends until the next read")
        finally:
            with self._lock:
                self._running -= 1

    def _fetch_one(self, item: Item) -> None:
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
        """Fetch everything of a version that is about to be edited, behind readers and saves; errors are left to readers."""
        with contextlib.suppress(RuntimeError):  # the store is closed
            self._edited.submit(content.fetch_for_later)

    def needs_download(self, item: Item) -> bool:
        """True if a reader of this version would begin a download."""
        fetcher = self._fetchers.get(item.version)
        return not (
            fetcher is not None and (fetcher.cached.is_complete or fetcher.transfers)
        ) and not self.is_cached(item)

    def may_share_download(self, item: Item) -> bool:
        """True if a download that begins now would serve handles that are opened later too (see proof.is_racy)."""
        racy = is_racy(item.updated_ns, steady_time() + self._pool.client.server_time_offset)
        return not racy and (item.size or 0) <= self._disk.limit

    # -- bytes from elsewhere -----------------------------------------------------------------------------

    def link_or_copy(self, source: Path) -> CacheFile | None:
        """A link to `source`, which is never written again, or a copy, for `adopt_file`; None if neither can be made."""
        try:
            size = os.stat(source).st_size
            return self._disk.link_or_copy(source, size) if size <= self._disk.limit else None
        except (OSError, FsError) as error:
            _log.warning("a saved file can't be kept in the cache: %s", error)
            return None

    def drop_replaced(self, version: Version) -> None:
        """This mount has replaced a version: its content goes, unless somebody has it open."""
        self._disk.remove_unless_pinned(version)

    def remember_size(self, item: Item, size: int) -> None:
        """Note the size of a version that was made here, where its item does not tell."""
        if item.size is None:
            self._pool.sizes.remember(item.version, size)

    def adopt_file(self, item: Item, file: CacheFile) -> None:
        """Make a file from `link_or_copy` the content of the version that `item` shows: for open handles, and if it is kept, for
        all.

        This is only a cache: if it can't be done, the bytes are downloaded when somebody reads. `evict_to_limit` must follow: the
        cache may be over its limit, and callers hold locks here.
        """
        size, kept = os.fstat(file.fd).st_size, False
        if size == 0 or item.size not in (None, size):
            return
        # Where `updatedAt` shows whole seconds, the job may have written in the same one: then later handles do not get these
        # bytes.
        if size <= self._disk.limit and (has_subsecond(item.updated_ns) or self.may_share_download(item)):
            kept = self._disk.commit(file, item.version, size)
        fetcher = self._fetchers.get(item.version)
        if fetcher is not None and fetcher.cached.size == size and not fetcher.cached.is_complete:
            if not kept:
                fetcher.proof.began = steady_time()
            fetcher.install_file(file)

    def evict_to_limit(self) -> None:
        """Bring the cache under its limit. This may remove thousands of files: call it with no lock held."""
        self._disk.evict_to_limit()

    def free_disk(self, directory: Path, size: int) -> bool:
        """Unsent bytes need `size` bytes on the disk of `directory`: free them. False if the cache has none to give there.

        This may remove thousands of files: call it with no lock held.
        """
        try:
            beside = os.stat(directory).st_dev == os.stat(self._disk.directory).st_dev
        except OSError:
            return False
        return beside and self._disk.evict_bytes(size)

    # -- questions ----------------------------------------------------------------------------------------

    def is_cached(self, item: Item) -> bool:
        """True if a handle opened now would read this version from the disk alone."""
        fetcher = self._fetchers.get(item.version)
        return (
            self._disk.complete_size(item.version) is not None
            if fetcher is None
            else fetcher.cached.is_complete
        )

    def used_bytes(self) -> int:
        """Bytes in the cache, unfinished downloads included."""
        return self._disk.used_bytes

    @property
    def refusal_reason(self) -> str:
        """Why the disk of the cache takes no bytes now; "" if it does."""
        return self._disk.refusal_reason

    def known_size(self, item: Item) -> int | None:
        """The size of a version in bytes: what the item tells, or else what is remembered; None if it is to be measured."""
        if item.size is not None:
            return item.size
        size = self._pool.sizes.get(item.version)
        return self._disk.complete_size(item.version) if size is None else size

    def measure_size(self, item: Item) -> int:
        """The size of a version in bytes, from the server if the item does not tell it (vfs/semantics.md 2.2). Raises ApiError.

        It is what the headers of a download say, or else how many bytes come. Small contents are kept.
        """
        size = self.known_size(item)
        if size is not None:
            return size
        began = steady_time()
        with self._pool.client.download(item.id) as body:
            size, data = _count_body(body, self._disk.limit)
        self._pool.sizes.remember(item.version, size)
        if data:
            fetcher = Fetcher(item, size, self._pool, self._disk)
            fetcher.proof.began = began
            with contextlib.suppress(FsError):
                fetcher.cached.store_bytes(0, data)
                fetcher.commit_if_complete()
        return size

    def close(self) -> None:
        """Break off every request of the client, answer every reader, remove unfinished contents."""
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
        with contextlib.suppress(OSError):  # said before: the cache can't be used
            self._disk.record_owner(self._owner)
            self._disk.remove_orphaned_caches()


def _count_body(body: Download, most: int) -> tuple[int, bytes]:
    """How many bytes a body has, and the bytes if they are few. Raises ApiError, ContractError if more than `most` come."""
    came, data = 0, bytearray()
    if body.length is not None and body.length > NEAR:
        return body.length, b""
    try:
        for chunk in body.chunks():
            came += len(chunk)
            if came <= NEAR:
                data += chunk
            elif came > most:
                told = f"download: no size is told, and more than {most} bytes came (see --cache-size)"
                raise ContractError(told)
    except UnavailableError:
        if body.length is None:
            raise
        return body.length, b""
    return came, bytes(data) if came <= NEAR else b""

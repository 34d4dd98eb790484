"""The content cache: contents by version, downloaded once, kept on disk (semantics.md section 3).

Locks, in order: the store's (which entry stands for which version, who has it open), an entry's, and the
leaves of pool and disk. None is held across I/O.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from jobfs.api import Client
from jobfs.content.disk import (
    DiskCache,
    claim,
    item_prefix,
    racy,
    remove_abandoned,
    shows_fractions,
    version_name,
)
from jobfs.content.entry import LINGER, Entry
from jobfs.content.errors import UnboundedError, again
from jobfs.content.fetch import Link
from jobfs.content.parts import CacheFile
from jobfs.content.pool import Ahead, Pool, Take
from jobfs.content.ranges import KIB, MIB, Run
from jobfs.errors import FsError
from jobfs.nodes import Item, Version

T = TypeVar("T")

_log = logging.getLogger("jobfs.content")

#: Contents that nobody has open, kept to be opened again or resumed, with a descriptor each.
_PARKED = 64
#: Sizes remembered of versions whose items do not tell them.
_LEARNED = 16384
#: Older versions of an item from this size on are removed as soon as a newer one is whole.
_WORTH_REMOVING = 64 * KIB
#: Bytes freed at once on a full disk.
_ROOM = 16 * MIB
#: Seconds that `close` waits for transfers to notice.
_CLOSING = 2.0


class Content:
    """An open handle on one version's content; the version is pinned until `close`.

    `size` is in bytes, None until it is known. Handles may be shared by threads. Where the whole content is on disk when it is
    opened, its file is opened by whoever reads first: what the kernel has kept costs nothing here.
    """

    __slots__ = ("_closed", "_entry", "_run", "_size", "_store", "updated_ns", "version")

    def __init__(self, store: ContentStore, version: Version, updated_ns: int) -> None:
        self.version = version
        self.updated_ns = updated_ns
        self._store = store
        self._entry: Entry | None = None
        self._size = version.size
        self._run: Run | None = None
        self._closed = False

    @property
    def size(self) -> int | None:
        """Bytes of the whole content; None until known."""
        return self._size if self._entry is None else self._entry.size

    @property
    def here(self) -> bool:
        """True if every byte was seen to be on disk; False proves nothing."""
        return self._entry is None or self._entry.whole

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the file (semantics.md section 3).

        Waits until those bytes are there, at most `timeout` seconds without progress. Raises ApiError:
        UnavailableError, NotFoundError, StaleVersionError (look up and open again), ContractError. Raises
        FsError: what the local disk says. A read that `close` overtakes still gets its bytes.
        """
        entry = self._entry or self._store.attach(self)
        file = entry.backing.file
        if entry.whole and file is not None:
            wanted = min(size, max((entry.size or 0) - offset, 0))
            try:
                data = os.pread(file.fd, wanted, offset)
            except OSError:
                data = b""
            if len(data) == wanted:
                return data
        if self._run is None:
            self._run = Run()
        return entry.read(self._run, offset, size)

    def meet(self) -> None:
        """Wait for the first byte, if there is one: the server's answer is to this version. Raises as `read` does."""
        if self._entry is not None:
            self._entry.read(Run(), 0, 1)

    def fetch(self) -> Path:
        """Bring everything; a file with the whole content, not to be written to, valid until `close`.

        Raises ApiError as `read` does, and FsError (ENOSPC) if the disk of the cache has no room for it.
        """
        if self._closed:
            raise FsError(errno.EBADF)
        return (self._entry or self._store.attach(self)).fetch()

    def bring(self) -> None:
        """Bring everything, in this thread and behind what readers wait for; errors are left to readers."""
        if self._entry is not None and not self._closed:
            self._entry.bring()

    def whole(self) -> bool:
        """True if every byte is on disk."""
        return self._store.on_disk(self.version) is not None if self._entry is None else self._entry.on_disk()

    def sha256(self) -> str | None:
        """SHA-256 in hex of the whole content; None unless it is whole. Computed once, from the disk."""
        return None if self._closed else (self._entry or self._store.attach(self)).sha256()

    def close(self) -> None:
        """Unpin this version; a download that only this handle wanted stops soon. May be called again."""
        if not self._closed:
            self._store.release(self)

    def __enter__(self) -> Content:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ContentStore:
    """Contents by version, shared by all handles; thread-safe.

    `directory`, made with mode 0700, is that of one mount, whose state directory is `owner`; whole contents stay in
    it across remounts. `limit` is in bytes. `timeout` is in seconds without progress.
    """

    def __init__(
        self, client: Client, directory: Path, *, owner: Path, limit: int, timeout: float = 30.0
    ) -> None:
        self._client = client
        self._owner = owner
        self._disk = DiskCache(directory, limit)
        # One connection is left to those who ask for names, and two by what is fetched ahead: the program
        # that it is fetched for may itself be waiting for another file.
        connections = client.max_connections
        self._pool = Pool(connections, "jobfs-content", wanted=connections - 1, background=connections - 2)
        self._link = Link(client, self._pool, timeout, limit)
        self._ahead = Ahead(self._pool, self._bring)
        self._lock = threading.Lock()
        self._entries: dict[Version, Entry] = {}
        self._parked: OrderedDict[Version, Entry] = OrderedDict()  # of them: open nowhere
        self._unread: set[Content] = set()  # open, and their files are not yet
        self._loose: set[Entry] = set()  # all that may be outside the disk's index, and some that are in it
        self._fine = False
        self._learned: dict[Version, int] = {}
        self._endless: dict[Version, UnboundedError] = {}
        self._pool.submit(self._scan, background=True)

    # -- handles ------------------------------------------------------------------------------------------

    def open(self, item: Item) -> Content:
        """A handle on the version that `item` shows; no request is made."""
        if not self._fine:
            self.fine_clock(item.updated_at)
        content = Content(self, Version(item.id, item.updated_at, item.size), item.updated_ns)
        if content.version not in self._entries:
            self._unread.add(content)  # first: what is seen now stays
            content._size = self.on_disk(content.version)
            if content._size is not None:
                return content
        self.attach(content)
        return content

    def on_disk(self, version: Version) -> int | None:
        """Bytes of a version that is in the cache whole; None if it is not."""
        if version.size == 0:
            return 0
        name = version_name(version)
        size = self._disk.touch(name)
        if size is None:
            size = self._disk.size(name)
        return size if version.size in (None, size) else None

    def attach(self, content: Content) -> Entry:
        """What a handle reads from: the one entry of its version, pinned until it is closed.

        For one that was closed meanwhile it is another one, which goes when what it serves has been read.
        """
        with self._lock:
            if content._entry is not None:
                return content._entry
            if content._closed:
                alone = Entry(content.version, content.updated_ns, self, self._link, self._disk)
                alone.discard()
                return alone
            entry = self._entries.get(content.version)
            if entry is None or (entry.pins and self._outlived(entry)):
                entry = Entry(content.version, content.updated_ns, self, self._link, self._disk)
                self._entries[content.version] = entry
                self._loose.add(entry)
            elif not entry.pins:
                self._parked.pop(content.version, None)
            entry.pins += 1
            content._entry = entry
            self._unread.discard(content)
            return entry

    def _outlived(self, entry: Entry) -> bool:
        """True if these bytes serve only those who have them open, and what is downloaded now would serve all (see `racy`)."""
        if entry.began is None:
            return False
        offset = self._client.server_time_offset
        return racy(entry.updated_ns, entry.began + offset, fine=self._fine) and not racy(
            entry.updated_ns, time.time() + offset, fine=self._fine
        )

    def release(self, content: Content) -> None:
        """A handle is closed: with the last one, decide what stays."""
        with self._lock:
            entry = None if content._closed else content._entry
            content._closed = True
            self._unread.discard(content)
            if entry is None:
                return
            entry.pins -= 1
            if entry.pins:
                return
            entry.linger = time.monotonic() + LINGER
            current = self._entries.get(entry.version) is entry
            if current and not self._link.closed and self._reusable(entry):
                self._parked[entry.version] = entry
                if entry.backing.name is not None:
                    self._disk.touch(entry.backing.name)
                surplus = self._surplus()
            else:
                if current:
                    del self._entries[entry.version]
                surplus = [entry]
        for gone in surplus:
            self._let_go(gone)

    def _reusable(self, entry: Entry) -> bool:
        if entry.whole:
            return entry.backing.name == version_name(entry.version) and not entry.unproved
        begun = bool(entry.fetches or entry.backing.have)
        return begun and entry.backing.spill is None and not self.transient(entry)

    def _surplus(self) -> list[Entry]:
        gone = []
        while len(self._parked) > _PARKED:
            version, entry = self._parked.popitem(last=False)
            self._entries.pop(version, None)
            gone.append(entry)
        return gone

    def _let_go(self, entry: Entry) -> None:
        """Nobody can reach this entry any more: the disk keeps what later handles may use."""
        entry.discard()
        with self._lock:
            self._loose.discard(entry)
        name = entry.backing.name
        if name is None:
            return
        right = version_name(entry.version)
        if entry.unproved or entry.doomed:
            with self._lock:
                used = any(other.backing.name == name for other in self._entries.values())
            if not used:
                self._disk.remove(name)
        elif name != right:
            self._disk.rename(name, right)
        else:
            self._disk.stamp(name)

    def prefetch(self, take: Take, count: int) -> None:
        """Fetch contents of items that `take` gives, `count` of them now, in the background, behind readers (section 3)."""
        self._ahead.run(take, count)

    def _bring(self, item: Item) -> None:
        with self.open(item) as content:
            content.bring()

    def missing(self, item: Item) -> bool:
        """True if a reader of this version would begin a download."""
        entry = self._entries.get(item.version)
        return not (entry is not None and (entry.whole or entry.fetches)) and not self.whole(item)

    def fine_clock(self, updated_at: str) -> bool:
        """True if this `updatedAt`, or one seen before, is finer than a second."""
        self._fine = self._fine or shows_fractions(updated_at)
        return self._fine

    def lasting(self, item: Item) -> bool:
        """True if a download that begins now would serve handles that are opened later too (see `racy`)."""
        moment = time.time() + self._client.server_time_offset
        return not racy(item.updated_ns, moment, fine=self._fine) and (item.size or 0) <= self._disk.limit

    # -- bytes from elsewhere -----------------------------------------------------------------------------

    def near(self, source: Path) -> AbstractContextManager[Path]:
        """A path to the bytes of `source` that `adopt` need not copy (see DiskCache.near)."""
        return self._disk.near(source)

    def adopt(self, item: Item, source: Path) -> None:
        """Make the bytes of `source` the content of the version that `item` shows.

        `source` is linked, cloned or copied; it may be deleted afterwards, but never written again. This
        is only a cache: if it can't be done, the bytes are downloaded when somebody reads.
        """
        version = item.version
        self.fine_clock(item.updated_at)
        try:
            size = os.stat(source).st_size
            if item.size not in (None, size):
                _log.warning("not cached: %s has %d bytes, the item %s", source.name, size, item.size)
                return
            self.learned(version, size)
            name = None if self._doubtful(item, size) else version_name(version)
            if size == 0 or not self._needed(version, kept=name is not None):
                return
            file = self._disk.parts.link(source, size)
            if name is not None:
                file = self._disk.keep(file, name, size)
        except (OSError, FsError) as error:
            _log.warning("a saved file can't be kept in the cache: %s", error)
            return
        self._hand_out(version, file, size, name)
        self._evict()

    def _needed(self, version: Version, *, kept: bool) -> bool:
        """True if a version's bytes serve somebody: who has it open, or who opens it later if they are `kept`."""
        with self._lock:
            entry = self._entries.get(version)
        return kept if entry is None else not entry.whole

    def _hand_out(self, version: Version, file: CacheFile, size: int, name: str | None) -> None:
        """Give a whole content to those who have its version open; None: it has no name in the cache, for nobody else."""
        with self._lock:
            entry = self._entries.get(version)
        if entry is not None:
            if name is None:
                entry.began = time.time()
            entry.install(file, size, name)
        elif name is None:
            self._disk.parts.discard(file)

    def give_way(self, directory: Path, size: int) -> bool:
        """What is unsent needs `size` bytes on the disk of `directory`. False if the cache has none to give there."""
        try:
            if os.stat(directory).st_dev != os.stat(self._disk.directory).st_dev:
                return False
        except OSError:
            return False
        self._drop_parked()
        return self._disk.free(max(size, _ROOM), self._names()) > 0

    # -- questions ----------------------------------------------------------------------------------------

    def whole(self, item: Item, patience: float = 0.0) -> bool:
        """True if a handle opened now would read this version from the disk alone.

        `patience`: seconds to wait until bytes that have all come are in their place.
        """
        with self._lock:
            entry = self._entries.get(item.version)
        if entry is not None:
            return entry.on_disk(patience)
        return self.on_disk(item.version) is not None

    def used(self) -> int:
        """Bytes in the cache, unfinished downloads included."""
        return self._disk.used + self._unfinished()

    def learned_size(self, version: Version) -> int | None:
        """Bytes of a version whose item does not tell: from a download or the disk; None if never seen."""
        if version.size is not None:
            return version.size
        size = self._learned.get(version)
        return self._disk.size(version_name(version)) if size is None else size

    def measure(self, item: Item) -> int:
        """Bytes of a version, of the server where the item does not tell; raises ApiError, FsError as `Content.read`.

        A download's headers tell them mostly; where they don't it has to be brought whole. One that is larger than
        the cache then is not brought again: UnboundedError.
        """
        size = self.learned_size(item.version)
        if size is not None:
            return size
        endless = self._endless.get(item.version)
        if endless is not None:
            raise again(endless)
        with self.open(item) as content:
            try:
                content.meet()
                if content.size is None:
                    content.fetch()
            except UnboundedError as error:
                _remember(self._endless, item.version, again(error))
                raise
            return content.size or 0

    def close(self) -> None:
        """Stop every transfer, answer every reader, remove what is unfinished; at most two seconds."""
        self._link.closed = True
        with self._lock:
            entries = list(self._entries.values())
            self._entries.clear()
            self._parked.clear()
        for entry in entries:
            entry.discard()
        self._pool.close(_CLOSING)
        for entry in entries:
            if not entry.pins:
                self._let_go(entry)
        self._disk.parts.close()

    # -- what entries ask (entry.Owner) -------------------------------------------------------------------

    def transient(self, entry: Entry) -> bool:
        """See entry.Owner."""
        if entry.unproved or entry.doomed or (entry.size or 0) > self._disk.limit:
            return True
        if entry.began is None:
            return False
        return racy(entry.updated_ns, entry.began + self._client.server_time_offset, fine=self._fine)

    def reserve(self, entry: Entry) -> None:
        """See entry.Owner."""
        with self._lock:
            self._loose.add(entry)
        self._evict(self._unfinished(expected=True))

    def make_room(self, size: int) -> bool:
        """See entry.Owner."""
        parked = self._drop_parked()
        return self._disk.free(max(size, _ROOM), self._names()) > 0 or parked

    def settled(self, entry: Entry) -> None:
        """See entry.Owner."""
        with self._lock:
            current = self._entries.get(entry.version) is entry
            unused = entry.pins == 0 and not (current and self._reusable(entry))
            if unused and current:
                del self._entries[entry.version]
                self._parked.pop(entry.version, None)
        if unused:
            self._let_go(entry)
        if entry.backing.name is not None:
            self._remove_older(entry)
            self._evict(newest=entry)

    def expel(self, entry: Entry) -> None:
        """See entry.Owner."""
        with self._lock:
            entry.doomed = True
            unused = self._entries.get(entry.version) is entry
            if unused:
                del self._entries[entry.version]
                self._parked.pop(entry.version, None)
            unused = unused and not entry.pins
        if unused:
            self._let_go(entry)

    def learned(self, version: Version, size: int) -> None:
        """See entry.Owner."""
        _remember(self._learned, version, size)

    # -- inside -------------------------------------------------------------------------------------------

    def _doubtful(self, item: Item, size: int) -> bool:
        """True if our own bytes must not be reused under this version: see `racy`, or they are too many."""
        moment = time.time() + self._client.server_time_offset
        return size > self._disk.limit or (not self._fine and racy(item.updated_ns, moment, fine=False))

    def _scan(self) -> None:
        """Learn what is on disk, in the background, and tidy up after mounts that come no more."""
        self._disk.scan()
        self._evict()
        try:
            claim(self._disk.directory, self._owner)
        except OSError:
            return  # said before: the cache can't be used
        remove_abandoned(self._disk.directory, lambda: self._link.closed)

    def _evict(self, unfinished: int | None = None, newest: Entry | None = None) -> None:
        """Bring the cache under its limit, unfinished downloads included; what is in use or new stays."""
        room = self._unfinished() if unfinished is None else unfinished
        if not self._disk.full(room):
            return
        self._drop_parked(newest)
        self._disk.evict(room, self._names())

    def _remove_older(self, entry: Entry) -> None:
        """Nobody asks for an older version of an item: let it not push out what is still asked for."""
        if (entry.size or 0) < _WORTH_REMOVING:
            return
        item_id = entry.version.item_id
        self._unpark(lambda other: other.version.item_id == item_id and other is not entry)
        keep = self._names() | {entry.backing.name}
        for name in self._disk.versions(item_prefix(item_id)):
            if name not in keep:
                self._disk.remove(name)

    def _names(self) -> set[str | None]:
        """The files that are open here, or that handles count on."""
        with self._lock:
            unread = {version_name(content.version) for content in tuple(self._unread)}
            return unread | {entry.backing.name for entry in self._entries.values()}

    def _unfinished(self, *, expected: bool = False) -> int:
        """Bytes outside the index of whole contents; `expected`: with what running downloads will bring."""
        with self._lock:
            self._loose = {entry for entry in self._loose if entry.backing.name is None}
            # One that is settling is on its way into the index.
            entries = [e for e in self._loose if self._entries.get(e.version) is e and not e.settling]
        return sum(max(entry.backing.have.total, self._coming(entry) if expected else 0) for entry in entries)

    def _coming(self, entry: Entry) -> int:
        """Bytes that an entry will have when its downloads are through, as far as they stay."""
        size = entry.size or 0
        return size if entry.fetches and size <= self._disk.limit else 0

    def _drop_parked(self, but: Entry | None = None) -> bool:
        return self._unpark(lambda entry: not entry.fetches and entry is not but)

    def _unpark(self, wanted: Callable[[Entry], bool]) -> bool:
        """Let go of parked entries; False if there were none of those that are `wanted`."""
        with self._lock:
            gone = [entry for entry in self._parked.values() if wanted(entry)]
            for entry in gone:
                del self._entries[entry.version], self._parked[entry.version]
        for entry in gone:
            self._let_go(entry)
        return bool(gone)


def _remember(known: dict[Version, T], version: Version, value: T) -> None:
    if len(known) >= _LEARNED:
        known.clear()
    known[version] = value

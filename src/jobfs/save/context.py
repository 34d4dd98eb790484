"""The context of all saves of a mount: requests, unsure items, bases (save/protocol.md R1, R2, R7, R8)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from cachetools import LRUCache

from jobfs import names
from jobfs.api.client import Client
from jobfs.api.deadline import bind_deadline, steady_time, wait_for_result
from jobfs.api.wire import HeldConnection
from jobfs.content import ContentStore
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    BadRequestError,
    FsError,
    ItemChangedError,
    NotFoundError,
    UnavailableError,
)
from jobfs.namespace import Namespace
from jobfs.nodes import Item, has_subsecond, implicit_directory
from jobfs.state import Change, State, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Stage
from jobfs.state.server import KnownServer

log = logging.getLogger("jobfs.save")

T = TypeVar("T")

#: Least bytes of kept copies that are freed at a time, and of cached contents if it is not known how many are needed.
_AT_LEAST = 1 << 20
#: Most renamed items whose new paths are remembered.
_REMEMBERED = 2048
#: Seconds after its `updatedAt` during which a version is racy: another write may leave `updatedAt` the same (R1).
RACY_SECONDS = 2.0
#: Seconds for which every observation is fresh (R8).
_FRESH = 0.05
#: Least seconds for which the observation of an item that a program names is fresh (R8).
_NAMED = 1.0


class Cancelled(Exception):  # noqa: N818 - a signal between steps, not an error
    """Signal that a Change was cancelled or has ended, and must take no further step (R10)."""


def raise_if_ended(change: Change) -> None:
    """Raise Cancelled if a Change must take no further step."""
    if change.stage in (Stage.CANCELLED, Stage.DONE):
        raise Cancelled


class Observation(NamedTuple):
    """An item, and when the server showed it (monotonic seconds): what justifies the next request on the item (R8).

    An observation is fresh for `valid_for` seconds, and at least for a usual round trip. `is_exact`: it justifies a request on
    this version only, not on a newer one of the item.
    """

    item: Item
    observed_at: float
    valid_for: float = 0.0
    is_exact: bool = False


@dataclass(eq=False)
class Context:
    """The services and facts that all saves of a mount share. Every method may be called from any thread.

    `io_pool` runs small requests beside an upload. `body_pool` downloads bodies, and has a thread for each save that may wait for
    one. `promote_pool` has a thread for every two connections: a promote that holds its connection never waits for a thread
    (R13). `mount` is the id in hidden names. `lifetime`: seconds for which a request may still be carried out after its
    connection died (R7). `timeout` is in seconds, `cache_limit` in bytes.
    """

    client: Client
    namespace: Namespace
    content: ContentStore
    state: State
    io_pool: ThreadPoolExecutor
    body_pool: ThreadPoolExecutor
    promote_pool: ThreadPoolExecutor
    mount: str
    lifetime: float
    timeout: float
    cache_limit: int
    server: KnownServer
    #: A monotonic clock, in seconds.
    clock: Callable[[], float] = time.monotonic
    #: Until when unanswered requests may still create hidden items (monotonic seconds): a later listing shows them all (R4).
    relist_after: float = 0.0
    #: By item id, the path that this mount gave an item while an earlier request on the item might still be carried out.
    _contested: LRUCache[str, str] = field(default_factory=lambda: LRUCache(_REMEMBERED))
    #: By item id, until when an unanswered request on the item may still be carried out (monotonic seconds).
    _unsure: dict[str, float] = field(default_factory=dict)

    # -- requests that an observation justifies (R8)

    @contextlib.contextmanager
    def hold_connection(
        self, observation: Observation, held: HeldConnection | None = None
    ) -> Iterator[tuple[HeldConnection, Item]]:
        """Hold a connection, or use `held`, for a request that `observation` justifies; yield the item as it was last seen.

        An observation that is too old once the connection is there is repeated on that connection. Raises ItemChangedError if
        the item has changed since, NotFoundError if it is gone, ApiError.
        """
        with (
            self.client.hold_connection(observation.item.path)
            if held is None
            else contextlib.nullcontext(held) as connection
        ):
            item = self.renew_if_old(observation, connection).item
            with self.mark_unsure_if_lost(item.id):
                yield connection, item

    def renew_if_old(self, observation: Observation, connection: HeldConnection) -> Observation:
        """Return `observation`, or a new one made on `connection` if it is too old (R8). Raises as `hold_connection`."""
        item = observation.item
        if self.clock() - observation.observed_at <= max(
            _FRESH, self.client.health.latency or 0.0, observation.valid_for
        ):
            return observation
        again = self.client.get(item.id, connection=connection)
        if again.path != item.path or (observation.is_exact and again.version != item.version):
            self.namespace.invalidate(item.path)
            raise ItemChangedError(f"{item.path} was changed on the server since it was looked at")
        return observation._replace(item=again, observed_at=self.clock())

    @contextlib.contextmanager
    def mark_unsure_if_lost(self, item_id: str) -> Iterator[None]:
        """Mark the item unsure (`unsure_until`) if the block, which sends a request on the item, raises AnswerLostError.

        The error is raised again: the caller must look at the item before its next step (R6, R7).
        """
        try:
            yield
        except AnswerLostError:
            self.mark_unanswered(item_id)
            raise

    def update_item(
        self, observation: Observation, *, held: HeldConnection | None = None, **wanted: Any
    ) -> Item:
        """Change an observed item with one request, and return the reply. `held` and errors as for `hold_connection`.

        Downloads that are running take the new `updatedAt` for the same version. This could hide a write of the job from before
        the request, so an item that a program has named and that is being downloaded is always observed again first.
        """
        return self.update_item_and_compare(observation, held=held, **wanted)[1]

    def update_item_and_compare(
        self,
        observation: Observation,
        *,
        held: HeldConnection | None = None,
        explain: bool = True,
        **wanted: Any,
    ) -> tuple[Item, Item]:
        """Change an item as `update_item` does; return the item just before, and the reply (for `carry_notes_over`)."""
        only_moves = {name for name, value in wanted.items() if value is not None} == {"path"}
        # Where moves keep `updatedAt`, the reply shows whether the job has written since the observation.
        reply_shows = only_moves and bool(self.server.facts.moves_keep_updated_at)
        with self.content.exclude_verification(observation.item) as readers:
            if readers and observation.valid_for:
                observation = observation._replace(observed_at=-math.inf)
            elif self._may_hide_job_write(observation.item, reply_shows=reply_shows):
                observation = observation._replace(valid_for=0.0)
            with self.hold_connection(observation, held) as (connection, item):
                reply = self.client.update(
                    item.id, kind=item.kind, connection=connection, explain=explain, **wanted
                )
            if reply_shows:
                item = replace(item, updated_at=reply.updated_at, size=reply.size)
            readers.accept_as_same_version(item, reply)
        return item, reply

    def _may_hide_job_write(self, item: Item, *, reply_shows: bool) -> bool:
        """Return whether notes of the observed version could be carried over to one that the job has written since."""
        return not (reply_shows or item.is_dir) and self.state.read_log.has_note_of(item)

    def delete_item(self, observation: Observation) -> None:
        """Delete an observed item with one request. Raises as `hold_connection`."""
        with self.hold_connection(observation) as (connection, item):
            self.client.delete(item.id, connection=connection)

    def last_observation_of(self, item: Item, valid_for: float | None = None) -> Observation:
        """Return the observation that justifies a request on an item that a program has named (R8).

        It is fresh for `valid_for` seconds, by default as long as a lookup is answered without a request; for at least a second.
        """
        seconds = self.namespace.lookup_ttl if valid_for is None else valid_for
        return Observation(item, self.namespace.last_seen_at(item), max(_NAMED, seconds))

    def note_rename(self, item_id: str, path: str) -> None:
        """Note that this mount moved an item to `path`, if an earlier request may still move the item elsewhere."""
        with self.state.lock:
            if item_id in self._contested or self.unsure_until(item_id) > self.clock():
                self._contested[item_id] = path

    def note_directory_rename(self, old: str, new: str) -> None:
        """Note that this mount renamed a directory: a late request may move an item in it back to its old path.

        A hidden item gets no new note: the path noted for it before changes with the directory.
        """
        with self.state.lock:
            for item_id, path in list(self._contested.items()):
                if names.is_below(path, old):
                    self._contested[item_id] = names.path_after_rename(path, old, new)
            for item in self.namespace.subtree(new) if self._unsure or self._contested else ():
                if names.parse_hidden_name(names.basename(item.path)) is None:
                    self.note_rename(item.id, item.path)

    def carry_notes_over(self, before: Item, after: Item) -> None:
        """Let notes and attributes of an item's version `before` our own request hold for the version `after` it."""
        self.state.read_log.carry_notes(before, after)
        with self.state.lock:
            file = self.state.index.file_of(after)
            if (
                file is not None
                and not file.overrides_server
                and file.version == before.updated_at != after.updated_at
            ):
                self.state.write(edit(file, version=after.updated_at))

    def carry_notes_to_path(self, before: Item, path: str) -> None:
        """Carry over the old version after a lost answer: what a look shows at the new path may be the job's next version."""
        self.carry_notes_over(before, replace(before, path=path))

    def may_be_late_move(self, item_id: str, path: str) -> bool:
        """Return whether a late request may have moved the item to `path`: this mount has given it another path since."""
        with self.state.lock:
            return self._contested.get(item_id, path) != path

    def undo_other_form(self, item: Item, asked_path: str, old_path: str) -> None:
        """Move an item back to `old_path` and raise BadRequestError if the server has stored it in another form of `asked_path`.

        See save/protocol.md R6.

        Raises ApiError if the item can't be moved back.
        """
        if reason := names.describe_other_form(asked_path, item.path):
            self.update_item(Observation(item, self.clock()), path=old_path)
            raise BadRequestError(reason)

    def make_room(self) -> None:
        """Let cached contents give room to what is new on the disk of the state directory. Call this with no lock held."""
        with contextlib.suppress(OSError):  # the disk can't be asked: the change itself fails, if it needs it
            while not self.state.journal.has_room:
                if not self.content.evict_on_disk_of(self.state.bytes.directory, _AT_LEAST):
                    return

    def retry_with_room(self, attempt: Callable[[], T], needs: Callable[[], int] = lambda: 0) -> T:
        """Call `attempt` until the disk has room for it, and return its result.

        Each time the disk is full, free the bytes that the attempt `needs`, doubled at every further turn. Call this with no lock
        held: it may remove many files. Raises the error of `attempt` if that is another, or if nothing is left to remove.
        """
        for turn in itertools.count():
            try:
                return attempt()
            except (OSError, FsError) as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._try_free_bytes(needs() << turn):
                    raise
        raise AssertionError

    def _try_free_bytes(self, size: int) -> bool:
        """Free `size` bytes on the disk of the state directory: cached contents, else kept copies. False if none are left."""
        if self.content.evict_on_disk_of(self.state.bytes.directory, size or _AT_LEAST):
            return True
        size = max(size, _AT_LEAST)
        if not (self.state.saves.drop_oldest(size) or self.state.bases.drop_oldest(size)):
            return False
        with contextlib.suppress(FsError):
            self.state.store.sync()  # a copy of a recent save shares its file with local bytes, which only a sync removes
        return True

    def stop_threads(self) -> None:
        """Shut the pools down. Call this after the last save has ended."""
        for pool in (self.io_pool, self.body_pool, self.promote_pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def late_request_deadline(self) -> float:
        """Return until when a request that goes unanswered now may still be carried out (monotonic seconds, R7)."""
        return self.clock() + self.lifetime

    def mark_unanswered(self, item_id: str) -> float:
        """Note that a request on the item went unanswered, or may have; return `late_request_deadline`."""
        now, until = self.clock(), self.late_request_deadline()
        with self.state.lock:
            self._unsure = {other: until for other, until in self._unsure.items() if until > now}
            self._unsure[item_id] = until
        return until

    def unsure_until(self, item_id: str) -> float:
        """Return until when an unanswered request on the item may be carried out (monotonic seconds); 0.0 if there is none."""
        return self._unsure.get(item_id, 0.0)

    def touch_directory(self, path: str) -> None:
        """Set the times of a directory to now: this mount has created, renamed or removed an entry."""
        file = self.state.index.file_at(path)
        if file is not None:
            now = time.time_ns()
            self.state.apply_in_memory(file, mtime_ns=now, ctime_ns=now)
        elif (item := self.namespace.peek(path)) is not None and item.is_dir:
            self.namespace.note_names_changed(path, self.state.set_times(item, content=True))

    def keep_implicit_parent(self, path: str) -> None:
        """Keep showing the implicit directory above `path`, whose last child this mount has just removed."""
        above = names.parent(path)
        if above and self.state.index.file_at(above) is None and self.namespace.peek(above) is None:
            file, now = self.state.get_or_add_file(implicit_directory(above)), time.time_ns()
            self.state.apply_in_memory(file, item=None, atime_ns=now, mtime_ns=now, ctime_ns=now)
            self.keep_implicit_parent(above)

    def base_of(self, item: Item | None, *, racy: bool | None = None, process: Process | None = None) -> Base:
        """Return the base of a save that replaces `item`, as this mount shows it now (vfs/semantics.md 4.42).

        `process`: the process that replaces the whole content; if it has read another version last, that version is the base.
        `racy`: whether the version was racy when it was opened, None to decide by the time now.
        """
        if item is None or item.is_implicit:
            return Base()
        if (read := self.base_by_last_read(item, process)) is not None:
            return read
        racy, sha256 = self.is_racy(item) if racy is None else racy, self._known_hash(item)
        # The item's age is that by the server's `Date`, if it sends one. Bytes need no clock.
        racy = racy or (sha256 != "" and not has_subsecond(item.updated_ns))
        return Base.from_item(item, sha256=sha256, racy=racy)

    def base_by_last_read(self, item: Item, process: Process | None) -> Base | None:
        """Return the base that follows from what `process` has read last; None if its save replaces the version of `item`."""
        read = self.state.read_log.version_read_by(process, item)
        return (
            Base.from_item(read, sha256=self._known_hash(read), racy=True) if isinstance(read, Item) else read
        )

    def is_racy(self, item: Item) -> bool:
        """Return whether the item's timestamp is too recent to prove that its bytes did not change, or is no time (R1)."""
        age = steady_time() + self.client.server_time_offset - item.updated_ns / 1e9
        return age < RACY_SECONDS or item.updated_ns == 0

    def _known_hash(self, item: Item) -> str:
        """Return the hash of a version that was placed here or whose bytes are in the cache, else ""."""
        file = self.state.index.file_of(item)
        if file is not None and file.sha256 and file.version == item.updated_at:
            return file.sha256
        if item.is_dir or not self.content.is_cached(item):
            return ""
        with self.content.open(item) as content:
            return content.compute_sha256() or ""

    def needs_base_hash(self, base: Base, current_item: Item) -> bool:
        """Return whether only its bytes will identify the base once it is set aside, and their hash is not known yet (R1)."""
        if base.sha256 or current_item.is_dir or not base.matches_version(current_item):
            return False
        if base.racy and not has_subsecond(current_item.updated_ns):
            return False  # the job may have written other bytes in that second
        if not base.racy and self.server.facts.moves_keep_updated_at:
            return False  # its timestamp identifies it
        return (current_item.size or 0) <= self.cache_limit

    def learn_moves_keep_updated_at(self, before: Item, after: Item) -> None:
        """Note that this server's moves keep `updatedAt`, if this move of an item that is not racy shows it (R1)."""
        if before.updated_at == after.updated_at != "" and not self.is_racy(before):
            self.server.learn(moves_keep_updated_at=True)

    def learn_base_hash_before_aside(self, change: Change, current_item: Item) -> None:
        """Download and hash the base before it is set aside, if only its bytes will identify it (R1). Raises UnavailableError."""
        if self.needs_base_hash(change.base, current_item):
            # In another thread: a body that hangs would hold this thread beyond the deadline of its call.
            reading = self.body_pool.submit(bind_deadline(self.learn_base_hash), change, current_item)
            wait_for_result(reading, f"reading {change.target}")

    def learn_base_hash(self, change: Change, current_item: Item) -> None:
        """Download the base, and note its hash if the item still is that version. Raises UnavailableError."""
        try:
            digest = fetch_sha256(self.client, current_item.id, current_item.size)
            if change.base.matches_version(self.client.get(current_item.id)):
                change.base = replace(change.base, sha256=digest)
        except UnavailableError:
            raise  # this proves nothing about the item: the save is tried again
        except ApiError as error:
            log.info("%s: the version that this save replaces can't be read: %s", change.target, error)


def fetch_sha256(client: Client, item_id: str, size: int | None) -> str:
    """Download an item and return the SHA-256 of its bytes in hex; `size` in bytes, None if not known. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id, size=size) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def item_if_bytes_match(client: Client, item: Item, digest: str) -> Item | None:
    """Return the item as it is now if its bytes have this hash, else None. Raises ApiError.

    None, too, if the item was written to, moved or deleted while it was downloaded.
    """
    try:
        if fetch_sha256(client, item.id, item.size) != digest:
            return None
        now = client.get(item.id)
    except NotFoundError:
        return None
    return now if (now.version, now.path) == (item.version, item.path) else None

"""What every part of a save works with, and what is known of versions that a save replaces (save/protocol.md R1, R2)."""

from __future__ import annotations

import contextlib
import dataclasses
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
from jobfs.api.deadline import bind_deadline, steady_time, wait_result
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

#: Bytes of kept copies that are freed at once, at least.
_AT_LEAST = 1 << 20
#: Items that are remembered.
_REMEMBERED = 2048
#: Seconds after its `updatedAt` in which a version may be written to again without another `updatedAt` (R1).
RACY_SECONDS = 2.0
#: Seconds for which a look is fresh, at least (R8).
_FRESH = 0.05
#: Seconds for which what a program names is good once it was seen, at least (R8).
_NAMED = 1.0


class Cancelled(Exception):  # noqa: N818 - a signal between steps, not an error
    """The change was cancelled: no further step of it is taken (R10)."""


def raise_if_cancelled(change: Change) -> None:
    """Raise Cancelled if a change must take no further step."""
    if change.stage in (Stage.CANCELLED, Stage.DONE):
        raise Cancelled


class Observation(NamedTuple):
    """What justifies a changing request: an item, and when the server showed it (monotonic seconds, R8).

    It is good for `valid_for` seconds, and for a usual round trip at least. `is_exact`: for this version of the item only.
    """

    item: Item
    observed_at: float
    valid_for: float = 0.0
    is_exact: bool = False


@dataclass(eq=False)
class Context:
    """One for a mount. Every method may be called from any thread.

    `io_pool` runs small requests beside an upload; `body_pool` reads bodies, and has a thread for each save that may wait for
    one; `promote_pool` has a thread for every two connections, so that no promote waits whose connection is held (R13). `mount`:
    the id in hidden names. `lifetime`: seconds that a request may be carried out after its connection died (R7).
    `timeout` in seconds, `cache_limit` in bytes.
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
    #: Until when unanswered requests may still make hidden items: a listing after that shows them (R4).
    look_again: float = 0.0
    #: Paths by item id, as given by this mount: of items that were renamed while a request on them might still be carried out.
    _contested: LRUCache[str, str] = field(default_factory=lambda: LRUCache(_REMEMBERED))
    #: By item id: until when a request on the item may still be carried out.
    _unsure: dict[str, float] = field(default_factory=dict)

    # -- requests that a look justifies (R8)

    @contextlib.contextmanager
    def hold_connection(
        self, look: Observation, held: HeldConnection | None = None
    ) -> Iterator[tuple[HeldConnection, Item]]:
        """Hold a connection for a request that `look` justifies, or use one that is `held`; yields the item as it was seen last.

        A look that has grown too old in the queue is repeated on the connection that is held. Raises ItemChangedError if it
        shows something else, NotFoundError if the item is gone, ApiError.
        """
        with (
            self.client.hold_connection(look.item.path)
            if held is None
            else contextlib.nullcontext(held) as connection
        ):
            item = self.renew_if_old(look, connection).item
            with self.mark_unsure_if_lost(item.id):
                yield connection, item

    def renew_if_old(self, look: Observation, connection: HeldConnection) -> Observation:
        """Return the look, repeated on a connection that is held if it has grown too old (R8). Raises as `hold_connection`."""
        item = look.item
        if time.monotonic() - look.observed_at <= max(
            _FRESH, self.client.health.latency or 0.0, look.valid_for
        ):
            return look
        again = self.client.get(item.id, connection=connection)
        if again.path != item.path or (look.is_exact and again.version != item.version):
            self.namespace.invalidate(item.path)
            raise ItemChangedError(f"{item.path} was changed on the server since it was looked at")
        return look._replace(item=again, observed_at=time.monotonic())

    @contextlib.contextmanager
    def mark_unsure_if_lost(self, item_id: str) -> Iterator[None]:
        """Send a request on an item inside: if its answer is lost, the item is unsure (`unsure_until`). Raises that error.

        The caller then looks at the item before its next step (R6, R7).
        """
        try:
            yield
        except AnswerLostError:
            self.mark_unanswered(item_id)
            raise

    def update_item(self, look: Observation, *, held: HeldConnection | None = None, **wanted: Any) -> Item:
        """Change an item that was looked at, with one request; returns the answer. `held` and errors as for `hold_connection`.

        To readers, the item's new `updatedAt` still is the same version. That would hide an earlier write by the job: where
        somebody reads, what a program names is always looked at first.
        """
        return self.update_and_compare(look, held=held, **wanted)[1]

    def update_and_compare(
        self, look: Observation, *, held: HeldConnection | None = None, explain: bool = True, **wanted: Any
    ) -> tuple[Item, Item]:
        """Change an item as `update_item` does; return it as it was just before, and the reply: for `carry_over`."""
        only_moves = {name for name, value in wanted.items() if value is not None} == {"path"}
        # Where moves keep `updatedAt`, the reply shows whether the job has written since the look.
        reply_shows = only_moves and bool(self.server.facts.moves_keep_updated_at)
        with self.content.exclude_verification(look.item) as readers:
            if readers and look.valid_for:
                look = look._replace(observed_at=-math.inf)
            elif self._may_be_misjudged(look.item, reply_shows=reply_shows):
                look = look._replace(valid_for=0.0)
            with self.hold_connection(look, held) as (connection, item):
                answer = self.client.update(
                    item.id, kind=item.kind, connection=connection, explain=explain, **wanted
                )
            readers.carry_over_version(item, answer)
        if reply_shows:
            item = dataclasses.replace(item, updated_at=answer.updated_at, size=answer.size)
        return item, answer

    def _may_be_misjudged(self, item: Item, *, reply_shows: bool) -> bool:
        """Return whether what is noted of a version would be carried to what the job has written since the look."""
        return not (reply_shows or item.is_dir) and self.state.read_log.is_known(item)

    def delete_item(self, look: Observation) -> None:
        """Delete an item that was looked at, with one request. Raises as `hold_connection`."""
        with self.hold_connection(look) as (connection, item):
            self.client.delete(item.id, connection=connection)

    def observe_by_name(self, item: Item, valid_for: float | None = None) -> Observation:
        """The look that justifies what a program does to the item of a name (R8): good for as long as what a lookup shows.

        `valid_for`: seconds for which it is good instead; a second at least.
        """
        good = self.namespace.lookup_ttl if valid_for is None else valid_for
        return Observation(item, self.namespace.last_seen_at(item), max(_NAMED, good))

    def note_rename(self, item_id: str, path: str) -> None:
        """This mount has given an item another name; a request that may still be carried out may take it back."""
        with self.state.lock:
            if item_id in self._contested or self.unsure_until(item_id) > time.monotonic():
                self._contested[item_id] = path

    def note_directory_rename(self, old: str, new: str) -> None:
        """Note that this mount renamed a directory: a late request may move what is in it back to the old name.

        An item that a save has set aside keeps the path that it was given last; that path moves with its directory.
        """
        with self.state.lock:
            for item_id, path in list(self._contested.items()):
                if names.is_below(path, old):
                    self._contested[item_id] = names.path_after_rename(path, old, new)
            for item in self.namespace.subtree(new) if self._unsure or self._contested else ():
                if names.parse_hidden_name(names.basename(item.path)) is None:
                    self.note_rename(item.id, item.path)

    def carry_over(self, before: Item, after: Item) -> None:
        """Our own request may have changed an item's `updatedAt`: what is remembered of the old version holds for the new one."""
        self.state.read_log.carry_notes(before, after)
        with self.state.lock:
            file = self.state.index.file_of(after)
            if (
                file is not None
                and not file.overrides_server
                and file.version == before.updated_at != after.updated_at
            ):
                self.state.write(edit(file, version=after.updated_at))

    def was_renamed_here(self, item_id: str, path: str) -> bool:
        """True if a late request may have brought an item to this path: this mount has given it another one since."""
        with self.state.lock:
            return self._contested.get(item_id, path) != path

    def refuse_other_form(self, item: Item, asked: str, back: str) -> None:
        """Refuse an item that the server keeps under another form of the path `asked` for; move it `back` to its old path (R6).

        Raises BadRequestError then, ApiError if it can't go back.
        """
        if told := names.describe_other_form(asked, item.path):
            self.update_item(Observation(item, time.monotonic()), path=back)
            raise BadRequestError(told)

    def with_room(self, attempt: Callable[[], T], needs: Callable[[], int] = lambda: 0) -> T:
        """Return the result of `attempt`; while the disk is full, make the bytes that it `needs` free first, and more each time.

        Call it with no lock held: many files may have to be removed. Raises what `attempt` raises once nothing is left to remove.
        """
        for turn in itertools.count():
            try:
                return attempt()
            except (OSError, FsError) as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not full or not self._make_room(needs() << turn):
                    raise
        raise AssertionError

    def _make_room(self, size: int) -> bool:
        """Free bytes on the disk of the state: of cached contents, or else of kept copies; False if there are none of either."""
        if self.content.free_disk(self.state.bytes.directory, size):
            return True
        size = max(size, _AT_LEAST)
        if not (self.state.saves.free_disk(size) or self.state.bases.free_disk(size)):
            return False
        with contextlib.suppress(FsError):
            self.state.store.sync()  # the bytes of what was just saved have a second name, until that is no longer needed
        return True

    def stop_threads(self) -> None:
        """End the threads, after the saves that they work for."""
        for pool in (self.io_pool, self.body_pool, self.promote_pool):
            pool.shutdown(wait=True, cancel_futures=True)

    def late_request_deadline(self) -> float:
        """Until when a request that goes unanswered now may be carried out (monotonic s, R7)."""
        return time.monotonic() + self.lifetime

    def mark_unanswered(self, item_id: str) -> float:
        """A request on the item went unanswered, or may have; returns `late_request_deadline`."""
        now, until = time.monotonic(), self.late_request_deadline()
        with self.state.lock:
            self._unsure = {other: until for other, until in self._unsure.items() if until > now}
            self._unsure[item_id] = until
        return until

    def unsure_until(self, item_id: str) -> float:
        """Until when a request on the item may still be carried out, in monotonic seconds; 0.0 if none is known."""
        return self._unsure.get(item_id, 0.0)

    def note_names_changed(self, path: str) -> None:
        """Something was made, renamed or removed in a directory by this mount: its times are now."""
        file = self.state.index.file_at(path)
        if file is not None:
            now = time.time_ns()
            self.state.apply_in_memory(file, mtime_ns=now, ctime_ns=now)
        elif (item := self.namespace.peek(path)) is not None and item.is_dir:
            self.namespace.note_names_changed(path, self.state.set_times(item, content=True))

    def keep_implicit_parent(self, path: str) -> None:
        """A directory that no item stands for goes on being shown after its last child was removed here."""
        above = names.parent(path)
        if above and self.state.index.file_at(above) is None and self.namespace.peek(above) is None:
            file, now = self.state.file_for_item(implicit_directory(above)), time.time_ns()
            self.state.apply_in_memory(file, item=None, atime_ns=now, mtime_ns=now, ctime_ns=now)
            self.keep_implicit_parent(above)

    def base_of(self, item: Item | None, *, racy: bool | None = None, process: Process | None = None) -> Base:
        """The base that a version shown by this mount makes for a save.

        `process`: the program that replaces the whole content; the base is the version that it has read last, if any.
        """
        if item is None or item.is_implicit:
            return Base()
        if (read := self.base_last_read(item, process)) is not None:
            return read
        racy = self.is_racy(item) if racy is None else racy
        return Base.from_item(item, sha256=self._known_hash(item), racy=racy)

    def base_last_read(self, item: Item, process: Process | None) -> Base | None:
        """The version that a program has read last, where that is not the item which is shown; else None."""
        read = self.state.read_log.version_read_by(process, item)
        return (
            Base.from_item(read, sha256=self._known_hash(read), racy=True) if isinstance(read, Item) else read
        )

    def is_racy(self, item: Item) -> bool:
        """True if the item's timestamp is too recent to prove that its bytes did not change (R1)."""
        return steady_time() + self.client.server_time_offset - item.updated_ns / 1e9 < RACY_SECONDS

    def _known_hash(self, item: Item) -> str:
        """The hash of a version that was placed here, or whose bytes are on this machine, else ""."""
        file = self.state.index.file_of(item)
        if file is not None and file.sha256 and file.version == item.updated_at:
            return file.sha256
        if item.is_dir or not self.content.is_cached(item):
            return ""
        with self.content.open(item) as content:
            return content.compute_sha256() or ""

    def needs_base_bytes(self, base: Base, there: Item) -> bool:
        """True if only its bytes will identify the base once it is set aside, and they are not known yet."""
        if base.sha256 or there.is_dir or not base.matches_version(there):
            return False
        if base.racy and not has_subsecond(there.updated_ns):
            return False  # the job may have written other bytes in that second
        if not base.racy and self.server.facts.moves_keep_updated_at:
            return False  # its timestamp tells
        return (there.size or 0) <= self.cache_limit

    def learn_from_move(self, before: Item, after: Item) -> None:
        """Note that this server's moves keep `updatedAt`, if one did so: only an old item proves it (R1)."""
        if before.updated_at == after.updated_at != "" and not self.is_racy(before):
            self.server.learn(moves_keep_updated_at=True)

    def fetch_base_before_aside(self, change: Change, there: Item) -> None:
        """Fetch the bytes of the base before it is set aside, if only they will identify it. Raises UnavailableError."""
        if self.needs_base_bytes(change.base, there):
            # On another thread: a body that hangs would hold this thread for longer than its call may take.
            learning = self.body_pool.submit(bind_deadline(self.fetch_base_bytes), change, there)
            wait_result(learning, f"reading {change.target}")

    def fetch_base_bytes(self, change: Change, there: Item) -> None:
        """Fetch the bytes of the base. Raises UnavailableError."""
        try:
            digest = fetch_sha256(self.client, there.id, there.size)
            if change.base.matches_version(self.client.get(there.id)):
                change.base = replace(change.base, sha256=digest)
        except UnavailableError:
            raise  # this says nothing of the item, and the save is tried again
        except ApiError as error:
            log.info("%s: the bytes that are replaced can't be read: %s", change.target, error)


def fetch_sha256(client: Client, item_id: str, size: int | None) -> str:
    """The hash, in hex, of an item's bytes as the server has them now; `size` as far as it is known. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id, size=size) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def item_if_bytes_match(client: Client, item: Item, digest: str) -> Item | None:
    """The item as it is now, if it has these bytes and was neither written to nor moved while they were read. Raises ApiError."""
    try:
        if fetch_sha256(client, item.id, item.size) != digest:
            return None
        now = client.get(item.id)
    except NotFoundError:
        return None
    return now if (now.version, now.path) == (item.version, item.path) else None

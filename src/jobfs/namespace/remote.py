"""The server's side of the tree, requested as seldom as the TTL allows (vfs/semantics.md 1).

One lock guards everything that is known and every request in flight. It is never held while a request is made or waited for.
"""

from __future__ import annotations

import errno
import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from jobfs.api.client import Client
from jobfs.api.deadline import UNBOUNDED, Deadline, current_deadline, use_deadline, wait_for_result
from jobfs.errors import (
    ApiError,
    ContractError,
    FsError,
    HeldBackError,
    OutOfTimeError,
    UnauthorizedError,
    UnavailableError,
    copy_error,
)
from jobfs.namespace.differences import Difference
from jobfs.namespace.listing import Lister
from jobfs.namespace.metadata_cache import NEVER, MetadataCache
from jobfs.namespace.tree import ROOT, ItemTree, is_never_shown, missing_save_targets
from jobfs.nodes import Item


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """The server's tree as it is known now; times in seconds, sizes in bytes.

    `snapshot_age` is None before the first listing. `error`: why known names are served although the server could not be
    asked. `shadowed` and `hostile`: path and reason of items that are not shown.
    """

    items: int
    size: int
    snapshot_age: float | None
    effective_ttl: float
    listing_seconds: float
    shadowed: list[tuple[str, str]]
    hostile: list[tuple[str, str]]
    error: str | None


log = logging.getLogger("jobfs.namespace")

#: Errors that say nothing about a name: the server was not reached, or did not answer as it should.
COULD_NOT_ASK = (UnavailableError, UnauthorizedError, ContractError)
#: Those of these errors that say nothing about the server either.
NOT_ASKED = (OutOfTimeError, HeldBackError)
#: Seconds after a failure in which calls fail at once; after that, one call in this many seconds asks again.
_PAUSE = 1.0
#: This many names in doubt are looked up one by one, whatever the number of pages.
_FEW = 8
#: The most requests for one answer; more would be needed only while we keep changing the same path ourselves.
_ROUNDS = 6
#: Seconds without progress after which known names are shown unconfirmed; or this many times the latency, if that is longer.
_PATIENCE, _TIMES = 2.0, 8
#: Seconds for which a name may be missing in the middle of another mount's save (save/protocol.md).
_MOMENT = 0.15
#: Statuses of a failed listing that a find need not share: a listing may fail over one item, or take too long for a gateway.
_FAULTS = frozenset({500, 502, 504})
#: The least seconds for which a listing is recent enough for the removal of a directory.
_RECENT = 1.0
#: Listings may take a fifth of the wall time; how long one usually takes is the median of the last five, once there are three.
_SHARE, _LAST, _ENOUGH = 5.0, 5, 3
#: This many finds within a second are not yet a storm.
_HANDFUL, _SECOND = 4, 1.0


@dataclass(eq=False, slots=True)
class PendingRequest:
    """One request in flight.

    `path`: None for a listing. `began`: by the namespace's clock. `ticket`: see metadata_cache.py. `deadline`: that of the
    call that makes the request. `outcome`: once the request has ended, its error, or None if it succeeded.
    """

    path: str | None
    began: float
    ticket: int
    deadline: Deadline
    outcome: Future[ApiError | None] = field(default_factory=Future)

    @property
    def caller_timed_out(self) -> bool:
        """Whether the call that makes the request has run out of time: one slow answer is no outage."""
        return self.deadline.signed_remaining() <= 0


class CircuitBreaker:
    """The last failure of a kind of request: for a second, calls fail with it at once; then one call a second asks again.

    So many calls on a dead server do not wait one after another. The failure of a call that ran out of its own time
    (`PendingRequest.caller_timed_out`) keeps no other call from asking. Not thread-safe by itself.
    """

    def __init__(self) -> None:
        self.error: ApiError | None = None
        self._timed_out = False
        self._until = 0.0
        self._succeeded = float("-inf")

    def raise_recent_failure(self, now: float) -> None:
        """Raise the last failure if it is too recent to ask again; otherwise let one caller ask."""
        if self.error is None or self._timed_out:
            return
        if now < self._until:
            raise copy_error(self.error)
        self._until = now + _PAUSE

    def note_success(self, now: float) -> None:
        """Note that a request was answered."""
        self.error, self._succeeded = None, now

    def note_failure(self, error: ApiError, request: PendingRequest, now: float) -> None:
        """Note that a request failed, unless it began before the last success."""
        if request.began >= self._succeeded:
            self.error, self._until = copy_error(error), now + _PAUSE
            self._timed_out = request.caller_timed_out


class Namespace:
    """The workspace's tree as the server has it, with our own changes as soon as they are answered.

    Times are in seconds. An answer is at most `ttl` less `kernel_timeout` old, counted from the start of its request.
    `expected`: a guess at the number of items, for the first listing. `is_decided_here`: whether this machine decides what a path
    shows; what a request shows there then changes no directory's time.

    If the server can't be asked, names confirmed within `stale_if_error` are served; a name that the listing of that time
    lacks does not exist. Anything else raises ApiError. With an explicit `max_age`, nothing stale is served. If only listings
    fail, single names are still found.
    """

    def __init__(
        self,
        client: Client,
        *,
        ttl: float,
        kernel_timeout: float,
        stale_if_error: float,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        expected: int = 0,
        is_decided_here: Callable[[str], bool] = lambda _path: False,
    ) -> None:
        self._client = client
        self._clock = clock
        self._pause = pause
        self._stale_if_error = stale_if_error
        self._lister = Lister(client, expected)
        self._lock = threading.Lock()
        self._cache = MetadataCache(max(ttl, stale_if_error), clock, is_decided_here)
        self._max_age = max(0.0, ttl - kernel_timeout)
        self._breaker = CircuitBreaker()
        self._listings = CircuitBreaker()  # for failures of listings alone
        self._pending: dict[str | None, PendingRequest] = {}  # None: the listing
        #: What requests cost: the pages of the last listing; how long listings usually take (0.0 until enough were read), and
        #: the last ones took; when the last finds were sent.
        self._pages, self._usual = 1, 0.0
        self._durations: deque[float] = deque(maxlen=_LAST)
        self._finds: deque[float] = deque(maxlen=_HANDFUL)

    # lookups

    def lookup(self, path: str, max_age: float | None = None) -> Item | None:
        """Return what is shown at exactly `path`; None only if the server said so (vfs/semantics.md 1, Lookups).

        With `max_age`, only an answer counts whose request began at most this many seconds ago. Raises ApiError.
        """
        if not path:
            return ROOT
        not_before = self._clock() - (self._max_age if max_age is None else max_age)
        with self._lock:
            if self._cache.is_fresh(path, not_before):
                return self._cache.tree.shown_at(path)
        if not is_never_shown(path):
            ask = partial(self._refresh_path, path, not_before, max_age)
            self._ask_or_serve_stale(ask, partial(self._may_serve_stale, path), max_age)
        return self.peek(path)

    def children(self, path: str, max_age: float | None = None) -> dict[str, Item]:
        """Return what is shown in a directory, by name, from one snapshot.

        The snapshot is at most the effective TTL old, or `max_age` seconds. Raises FsError (ENOENT, ENOTDIR), ApiError.
        """
        self._ask_or_serve_stale(
            partial(self._refresh_directory, path, max_age), partial(self._may_list_stale, path), max_age
        )
        with self._lock:
            item = self._cache.tree.shown_at(path)
            if item is None or not item.is_dir:
                raise FsError(errno.ENOENT if item is None else errno.ENOTDIR)
            return self._cache.tree.children(path)

    def refresh(self) -> None:
        """Read a new snapshot now, but never two at the same time; raises ApiError."""
        mark = self._cache.last_ticket
        while self._cache.snapshot.ticket <= mark:
            deadline = self._request_deadline(False)
            with self._lock:
                request = self._join_or_begin(None, deadline, must_ask=True)
            try:
                self._await_request(request, deadline)
            except ApiError:
                if request.ticket > mark:
                    raise

    # known answers, without a request

    def cached_lookup(self, path: str) -> Item | None:
        """Return what `lookup` shows at `path` if that needs no request; otherwise None."""
        with self._lock:
            shown = self._cache.tree.shown_at(path)
            fresh = self._cache.is_fresh(path, self._clock() - self._max_age)
            return shown if fresh or self._may_skip_due_listing(path, shown) else None

    def peek(self, path: str) -> Item | None:
        """Return what was last shown at `path`, however long ago."""
        with self._lock:
            return self._cache.tree.shown_at(path)

    def peek_children(self, path: str) -> dict[str, Item] | None:
        """Return what the last listing showed in a directory, by name, however long ago; None if it says nothing of it."""
        with self._lock:
            return self._cache.tree.children(path) if self._may_list_stale(path, UNBOUNDED) else None

    def names_changed_at(self, directory: Item) -> int:
        """Return when names in a directory were last seen to change, in ns since the epoch; 0 if never or forgotten."""
        with self._lock:
            return self._cache.names_changed_at(directory)

    def note_names_changed(self, path: str, now: int) -> None:
        """Note that this mount changed the names in a directory, at `now` in ns since the epoch."""
        with self._lock:
            self._cache.note_names_changed(path, now)

    def forget_names_changed(self, directory: Item) -> None:
        """Forget when the names in a directory changed, because its times were set."""
        with self._lock:
            self._cache.forget_names_changed(directory)

    def take_differences(self) -> list[Difference]:
        """Return what others than this mount have changed since the last call, as far as it was seen."""
        with self._lock:
            return self._cache.take_differences()

    def subtree(self, path: str) -> list[Item]:
        """Return every known item at or below `path`, shadowed and hidden ones included."""
        with self._lock:
            tree = self._cache.tree
            return [*tree.candidates(path), *tree.descendants(path)]

    def hidden_items(self) -> list[Item]:
        """Return every known item with a hidden name, or below one, of this mount and of others."""
        with self._lock:
            return self._cache.tree.hidden_items()

    def peek_by_id(self, item_id: str) -> Item | None:
        """Return what is known of the item with this id, shown or not."""
        with self._lock:
            return self._cache.tree.get(item_id)

    def last_seen_at(self, item: Item) -> float:
        """Return when this version was last known to be at the item's path, by the clock; -inf if in doubt or replaced."""
        with self._lock:
            return self._cache.last_seen_at(item)

    def has_listing_since(self, moment: float) -> bool:
        """Return whether the snapshot's listing began after `moment`, in seconds of the clock."""
        return self._cache.snapshot.began > moment

    @property
    def max_age_to_prove_empty(self) -> float:
        """How old a snapshot that shows a directory empty may be, in seconds since its listing began (save/protocol.md R12)."""
        return self._usual + max(_RECENT, self._usual)

    @property
    def lookup_ttl(self) -> float:
        """Seconds for which `lookup` repeats an answer without another request."""
        return self._max_age

    @property
    def snapshot_number(self) -> int:
        """Number of snapshots read so far."""
        return self._cache.snapshot_count

    @property
    def edition(self) -> int:
        """A number that grows with each request and each change of ours: while it is the same, so are the answers of `peek`."""
        return self._cache.last_ticket + self._cache.snapshot_count

    def edition_if_fresh(self) -> int:
        """Return the `edition` while a fresh snapshot gives every lookup the same answer; 0 if no snapshot is fresh."""
        known = self._cache  # inlined, because every getattr calls this
        fresh = known.snapshot.began > self._clock() - self._max_age
        return known.last_ticket + known.snapshot_count if fresh else 0

    def status(self) -> NamespaceStatus:
        """Return the server's tree as it is known now."""
        with self._lock:
            known = self._cache
            error = self._client.health.unreachable_reason or self._breaker.error or self._listings.error
            return NamespaceStatus(
                items=len(known.tree),
                size=sum(item.size or 0 for item in known.tree.items()),
                snapshot_age=self._clock() - known.snapshot.began if known.snapshot_count else None,
                effective_ttl=self._effective_ttl(),
                listing_seconds=self._durations[-1] if self._durations else 0.0,
                # If an item came to a taken path, the earlier one is most likely gone: report only fresh paths.
                shadowed=[found for found in known.tree.shadowed_paths() if known.is_fresh(found[0])],
                hostile=known.tree.never_shown_paths(),
                error=None if error is None else str(error),
            )

    @property
    def is_unreachable(self) -> bool:
        """Whether the last request could not reach the server."""
        return self._breaker.error is not None or self._client.health.unreachable_reason is not None

    # our own changes

    def record_own_change(self, item: Item, old_path: str = "", *, is_reported: bool = False) -> None:
        """Record the reply to our own create or update: `item` is now at its path.

        What was below `old_path`, if we moved it, is now below that path. `is_reported`: see MetadataCache.record_own_change.
        """
        with self._lock:
            self._cache.record_own_change(item, old_path, is_reported=is_reported)
            self._breaker.note_success(self._clock())

    def record_deleted(self, item: Item) -> None:
        """Record our own delete, or a 404: the item is gone with everything below it; what it shadowed is shown again."""
        with self._lock:
            self._cache.record_deleted(item)

    def invalidate(self, path: str) -> None:
        """Stop trusting what is known of `path` and of what is below it: the next lookup makes a request."""
        with self._lock:
            self._cache.invalidate(path)

    # choosing a request (under the lock)

    def _choose_request(
        self, path: str, not_before: float, max_age: float | None, own_deadline: Deadline
    ) -> PendingRequest | None:
        """Return the find or listing that will answer for `path`; None if what is known may be served."""
        shown = self._cache.tree.shown_at(path)
        if max_age is None and self._may_skip_due_listing(path, shown):
            return None
        if self._needs_listing(shown, max_age):
            return self._join_or_begin(None, own_deadline, must_ask=max_age is not None)
        return self._join_or_begin(path, own_deadline, not_before, must_ask=max_age is not None)

    def _effective_ttl(self) -> float:
        """Return how old a snapshot may be before another one is read, in seconds."""
        return max(self._max_age, _SHARE * self._usual)

    def _are_finds_too_frequent(self) -> bool:
        """Return whether another find would be too many within a second."""
        return len(self._finds) == _HANDFUL and self._finds[0] > self._clock() - _SECOND

    def _may_skip_due_listing(self, path: str, shown: Item | None) -> bool:
        """Return whether a listing would be due, but the last one is within the effective TTL, and `path` in no doubt."""
        due = self._are_finds_too_frequent() or (shown is not None and shown.is_implicit)
        return due and self._cache.is_fresh(path, self._clock() - self._effective_ttl())

    def _needs_listing(self, shown: Item | None, max_age: float | None) -> bool:
        """Return whether a listing, not a find, must answer for a path (vfs/semantics.md 1, Cost control).

        `shown`: what the path showed last. Only a listing sees implicit directories, and names that are being saved.
        """
        if shown is not None and shown.is_implicit:
            return True
        if self._listings.error is not None:
            return False
        if not self._cache.snapshot_count:
            return True
        age = self._clock() - self._cache.snapshot.began
        if max_age is not None:
            # A slow listing would be too old as soon as it ends.
            return self._are_finds_too_frequent() and age > max_age > _SHARE * self._durations[-1]
        return (
            self._prefers_listing(shown) or self._are_finds_too_frequent()
        ) and age > self._effective_ttl()

    def _prefers_listing(self, shown: Item | None) -> bool:
        """Return whether a listing is better than a find for an unknown name (vfs/semantics.md 1.8).

        The name may be an implicit directory's, which `find` does not see; or one page holds all, so both cost the same.
        """
        return shown is None and (self._cache.implicit_seen or self._pages == 1)

    def _join_or_begin(
        self, path: str | None, own_deadline: Deadline, not_before: float = NEVER, *, must_ask: bool
    ) -> PendingRequest:
        """Return the request in flight for `path` (None: the listing) that began at `not_before` or later, or begin one.

        There are never two listings at once, so a caller may have to wait for one and then for another. Raises the error of a
        recent failure; not if the caller `must_ask`, because it has something to change, and the time to ask.
        """
        request = self._pending.get(path)
        needed = 0 if path is None else self._cache.minimum_ticket(path)
        if request is not None and request.began >= not_before and request.ticket >= needed:
            return request
        now = self._clock()
        if not must_ask:
            if self._client.health.unreachable_reason is None:
                self._breaker.raise_recent_failure(now)
            if path is None:
                self._listings.raise_recent_failure(now)
        if path is not None:
            self._finds.append(now)
        request = self._pending[path] = PendingRequest(path, now, self._cache.begin_request(), own_deadline)
        return request

    # making requests (without the lock)

    def _ask_or_serve_stale(
        self, ask: Callable[[], None], stale: Callable[[], bool], max_age: float | None
    ) -> None:
        """Ask the server. If it can't be asked, known names are served if `stale` allows it and there is no `max_age`."""
        if max_age is not None:
            return ask()
        with self._lock:
            serves = self.is_unreachable and stale()
        if serves and not self._client.probe_recovery():
            return None
        try:
            ask()
        except COULD_NOT_ASK:
            with self._lock:
                if not stale():
                    raise

    def _refresh_path(self, path: str, not_before: float, max_age: float | None) -> None:
        """Make a find or a listing answer for a path."""
        with self._lock:
            deadline = self._request_deadline(max_age is None and self._may_serve_stale(path))
        for _ in range(_ROUNDS):
            with self._lock:
                if self._cache.is_fresh(path, not_before):
                    return
                request = self._choose_request(path, not_before, max_age, deadline)
            if request is None:
                return
            try:
                self._await_request(request, deadline)
            except (ContractError, UnavailableError):
                if request.path is not None or self._listings.error is None:
                    raise

    def _refresh_directory(self, path: str, max_age: float | None) -> None:
        """Get a snapshot that is recent enough for a directory; look up single names in it that are in doubt.

        These were changed here since the listing began. To read another listing for them would be too much after each save.
        """
        not_before = self._clock() - (self._effective_ttl() if max_age is None else max_age)
        with self._lock:
            deadline = self._request_deadline(max_age is None and self._may_list_stale(path))
        for _ in range(_ROUNDS):
            with self._lock:
                doubtful = self._cache.doubtful_children(path)
                few = len(doubtful) <= max(_FEW, self._pages)
                if few and self._cache.is_directory_listed_since(path, not_before):
                    break
                request = self._join_or_begin(None, deadline, must_ask=max_age is not None)
            self._await_request(request, deadline)
            doubtful = []
        for child in doubtful:
            self.lookup(child, max_age)

    def _request_deadline(self, known: bool) -> Deadline:
        """Return the deadline of a request: a short one if its answer is `known`, and the request only confirms it."""
        moment = max(_PATIENCE, _TIMES * (self._client.health.latency or 0.0))
        return Deadline(moment if known else UNBOUNDED, current_deadline(), foreground=False)

    def _await_request(self, request: PendingRequest, own_deadline: Deadline) -> None:
        """Make the request, or wait for the call that makes it, within `own_deadline`; raises its error.

        Returns early, without an answer, if that call has run out of time and this one has not.
        """
        with use_deadline(own_deadline):
            if request.deadline is own_deadline:
                self._perform_request(request)
                return
            with request.deadline.attach_waiter(own_deadline):
                error = wait_for_result(request.outcome, "the request of another call")
            its_own = isinstance(error, NOT_ASKED) or (
                isinstance(error, UnavailableError) and request.caller_timed_out
            )
            if error is not None and not (its_own and own_deadline.signed_remaining() > 0):
                raise copy_error(error)

    def _perform_request(self, request: PendingRequest) -> None:
        """Make the request, for all calls that wait for it. Raises its error."""
        error: ApiError | None = UnavailableError("the request was aborted")
        try:
            if request.path is None:
                self._perform_listing(request)
            else:
                self._perform_find(request, request.path)
            error = None
        except COULD_NOT_ASK as exc:
            error = exc
        except ApiError as exc:
            # A refused listing says nothing about a name, and must not look like "no such file".
            error = exc if request.path is not None else UnavailableError(str(exc), status=exc.status)
        finally:
            with self._lock:
                self._finish_request(request, error)
            request.outcome.set_result(error)
        if error is not None:
            raise error

    def _finish_request(self, request: PendingRequest, error: ApiError | None) -> None:
        """Remove a request that has ended; record whether the server can't be asked, or only its listing fails."""
        if self._pending.get(request.path) is request:
            del self._pending[request.path]
        self._cache.finish_request(request.ticket)
        now = self._clock()
        if error is None:
            self._breaker.note_success(now)
            if request.path is None:
                self._listings.note_success(now)
        elif isinstance(error, COULD_NOT_ASK) and not isinstance(error, NOT_ASKED):
            self._note_failure_in_breaker(request, error, now)

    def _note_failure_in_breaker(self, request: PendingRequest, error: ApiError, now: float) -> None:
        only_listings = request.path is None and (isinstance(error, ContractError) or error.status in _FAULTS)
        breaker = self._listings if only_listings else self._breaker
        # api/health.py logs that the server can't be reached, or stays silent.
        if breaker.error is None and not (request.caller_timed_out or error.errno == errno.ENETUNREACH):
            log.warning("the server can't be reached (%s): known names are served", error)
        breaker.note_failure(error, request, now)

    def _perform_find(self, request: PendingRequest, path: str) -> None:
        items = self._client.find(path)
        with self._lock:
            tree = self._cache.tree
            missed = not items and tree.candidates(path) and not tree.has_descendants(path)
        if missed:
            self._pause(_MOMENT)
            items = self._client.find(path)
        with self._lock:
            self._cache.record_find(request.ticket, request.began, path, items)

    def _perform_listing(self, request: PendingRequest) -> None:
        known = self._cache.tree  # freed at the end, without the lock: a big tree takes a while
        ids = {item.id for item in known.items()}
        items, pages = self._lister.read_all(ids, partial(self._ids_changed_since, request.ticket))
        if ids and not items:
            self._client.require_workspace()  # else all files would seem to be deleted
        seconds = self._clock() - request.began
        tree = ItemTree.from_items(items)
        with self._lock:
            missed = missing_save_targets(known, tree)
        if missed:
            self._pause(_MOMENT)
            for path in missed:
                tree.replace_at(path, self._client.find(path))
        with self._lock:
            self._cache.record_listing(request.ticket, request.began, tree)
            self._pages = pages
            self._durations.append(seconds)
            if len(self._durations) >= _ENOUGH:
                self._usual = statistics.median(self._durations)

    def _ids_changed_since(self, ticket: int) -> set[str]:
        with self._lock:
            return self._cache.ids_changed_since(ticket)

    # stale answers (under the lock)

    def _may_serve_stale(self, path: str) -> bool:
        """Return whether the item known at `path`, or its absence, may be served although the server could not be asked."""
        known = self._cache
        confirmed = self._clock() - known.confirmed_at(path) <= self._stale_if_error
        return confirmed and (known.tree.shown_at(path) is not None or known.is_fresh(path))

    def _may_list_stale(self, path: str, max_age: float | None = None) -> bool:
        """Return whether a directory's entries, `max_age` or `stale_if_error` seconds old, may be served without a request."""
        known, max_age = self._cache, self._stale_if_error if max_age is None else max_age
        shown = known.tree.shown_at(path)
        if shown is None or not shown.is_dir or self._clock() - known.snapshot.began > max_age:
            return False
        # The entries of a directory that appeared after the last listing are unknown: it must not look empty.
        return known.snapshot.ticket >= known.minimum_ticket(path) or bool(known.tree.children(path))

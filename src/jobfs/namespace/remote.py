"""Namespace: the server's side of the tree, asked as seldom as the TTL allows (vfs/semantics.md 1).

Its one lock guards everything that is known and everything that is in the air. It is never held while a request is made
or waited for.
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
from jobfs.api.deadline import UNBOUNDED, Deadline, bound_by, current, result
from jobfs.errors import (
    ApiError,
    ContractError,
    FsError,
    HeldBackError,
    NotFoundError,
    OutOfTimeError,
    UnauthorizedError,
    UnavailableError,
    again,
)
from jobfs.namespace.knowledge import NEVER, Knowledge
from jobfs.namespace.listing import Lister
from jobfs.namespace.news import News
from jobfs.namespace.tree import ROOT, Tree, missed_names, never_shown
from jobfs.nodes import Item


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """The server's tree as it is known now; times in seconds, sizes in bytes.

    `snapshot_age` is None before the first listing. `error`: why known names are served though the server could not be asked.
    `shadowed` and `hostile` hold path and reason of items that are not shown.
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

#: Errors that say nothing of a name: the server was not reached, or does not talk to us as it should.
COULD_NOT_ASK = (UnavailableError, UnauthorizedError, ContractError)
#: Of these errors, those that say nothing of the server either.
NOT_ASKED = (OutOfTimeError, HeldBackError)
#: Seconds after a failure in which only one call asks again.
_PAUSE = 1.0
#: So many names in doubt are asked for one by one, whatever the number of pages.
_FEW = 8
#: Most rounds of asking for one answer; more are only needed while we go on changing the same path ourselves.
_ROUNDS = 6
#: Time without progress after which known names are shown unconfirmed: so many seconds, or so many usual answers if longer.
_PATIENCE, _TIMES = 2.0, 8
#: How long a name that was there may be missing in the middle of another mount's save (save/protocol.md).
_MOMENT = 0.15
#: Failures of a listing that a find need not share: a listing may fail over one item, or take too long for a gateway.
_FAULTS = frozenset({500, 502, 504})
#: Seconds for which a listing is good for every removal of a directory, at least.
_RECENT = 1.0
#: Listings may take a fifth of the wall time. How long one usually takes is the median of the last five, of three at least.
_SHARE = 5.0
_LAST, _ENOUGH = 5, 3
#: So many finds within a second are no storm yet.
_HANDFUL, _SECOND = 4, 1.0


@dataclass(eq=False, slots=True)
class Flight:
    """One request under way: its path (None: a listing), when it began, its ticket, the deadline of the call that makes it.

    `over`: once it has ended, the error if it failed.
    """

    path: str | None
    began: float
    ticket: int
    deadline: Deadline
    over: Future[ApiError | None] = field(default_factory=Future)

    @property
    def hasty(self) -> bool:
        """True if the time of the call that made it has passed: one slow answer is no outage."""
        return self.deadline.left() <= 0


class Breaker:
    """The last failure of a kind of request: for a second no call but one asks again.

    So a storm of calls on a dead server fails at once, not one by one. The failure of a `hasty` call (see Flight) keeps no other
    call from asking. Not safe for threads by itself.
    """

    def __init__(self) -> None:
        self.error: ApiError | None = None
        self._hasty = False
        self._until = 0.0
        self._succeeded = float("-inf")

    def check(self, now: float) -> None:
        """Raise the last failure if it is too young to ask again; otherwise let one caller ask."""
        if self.error is None or self._hasty:
            return
        if now < self._until:
            raise again(self.error)
        self._until = now + _PAUSE

    def succeeded(self, now: float) -> None:
        """A request was answered."""
        self.error, self._succeeded = None, now

    def failed(self, error: ApiError, flight: Flight, now: float) -> None:
        """A request failed. A failure older than the last success is none."""
        if flight.began >= self._succeeded:
            self.error, self._hasty, self._until = again(error), flight.hasty, now + _PAUSE


class Namespace:
    """The workspace's tree as the server has it, with our own changes as soon as they are answered.

    Times are in seconds. An answer is at most `ttl` less `kernel_timeout` old, counted from the start of its request. `expected`
    is a guess at the number of items, for the first listing.

    Where the server can't be asked, names confirmed within `stale_if_error` are served; a name that the listing of that time
    lacks is free. Anything else raises ApiError. With an explicit `max_age` nothing stale is served. Where only the listing
    fails, single names are still found.
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
    ) -> None:
        self._client = client
        self._clock = clock
        self._pause = pause
        self._stale_if_error = stale_if_error
        self._lister = Lister(client, expected)
        self._lock = threading.Lock()
        self._known = Knowledge(max(ttl, stale_if_error), clock)
        self._bound = max(0.0, ttl - kernel_timeout)
        self._breaker = Breaker()
        self._listings = Breaker()  # for failures of listings alone
        self._flights: dict[str | None, Flight] = {}  # None: the listing
        #: What requests cost: the pages of the last listing, how long listings usually take (0.0: too few were read to tell) and
        #: the last ones took, when the last finds were sent.
        self._pages, self._usual = 1, 0.0
        self._durations: deque[float] = deque(maxlen=_LAST)
        self._finds: deque[float] = deque(maxlen=_HANDFUL)

    # looking

    def lookup(self, path: str, max_age: float | None = None) -> Item | None:
        """What is shown at exactly `path`, None only if the server said so; raises ApiError (section 1, Lookups).

        With `max_age`, only an answer counts whose request began at most so many seconds ago.
        """
        if not path:
            return ROOT
        not_before = self._clock() - (self._bound if max_age is None else max_age)
        with self._lock:
            if self._known.fresh(path, not_before):
                return self._known.tree.at(path)
        if not never_shown(path):
            ask = partial(self._look_up, path, not_before, max_age)
            self._ask(ask, partial(self._serves_stale, path), max_age)
        return self.peek(path)

    def children(self, path: str, max_age: float | None = None) -> dict[str, Item]:
        """What is shown in a directory, by name, from one snapshot: at most the effective TTL old, or `max_age` seconds.

        Raises FsError (ENOENT, ENOTDIR), ApiError.
        """
        self._ask(partial(self._list_directory, path, max_age), partial(self._lists_stale, path), max_age)
        with self._lock:
            item = self._known.tree.at(path)
            if item is None or not item.is_dir:
                raise FsError(errno.ENOENT if item is None else errno.ENOTDIR)
            return self._known.tree.children(path)

    def refresh(self) -> None:
        """Read a new snapshot now, at most one at a time; raises ApiError."""
        mark = self._known.count
        while self._known.snapshot.ticket <= mark:
            mine = self._deadline(False)
            with self._lock:
                flight = self._board(None, mine, insists=True)
            try:
                self._ride(flight, mine)
            except ApiError:
                if flight.ticket > mark:
                    raise

    # looking at what is known: no request

    def looked_up(self, path: str) -> Item | None:
        """What `lookup` shows at `path` if it makes no request for that; else None."""
        with self._lock:
            shown = self._known.tree.at(path)
            fresh = self._known.fresh(path, self._clock() - self._bound)
            return shown if fresh or self._young_enough(path, shown) else None

    def peek(self, path: str) -> Item | None:
        """What was last shown at `path`, however long ago."""
        with self._lock:
            return self._known.tree.at(path)

    def last_children(self, path: str) -> dict[str, Item] | None:
        """What the last listing has shown in a directory, by name, however long ago; None if it says nothing of it."""
        with self._lock:
            return self._known.tree.children(path) if self._lists_stale(path, UNBOUNDED) else None

    def names_changed(self, directory: Item) -> int:
        """When the names in a directory were last seen to change, in ns since the epoch; 0 if not since `forget_names`."""
        with self._lock:
            return self._known.names_changed(directory)

    def note_names(self, path: str, now: int) -> None:
        """This mount has changed the names in a directory, at `now` in ns since the epoch."""
        with self._lock:
            self._known.note_names(path, now)

    def forget_names(self, directory: Item) -> None:
        """The times of a directory were set: forget when the names in it were changed."""
        with self._lock:
            self._known.forget_names(directory)

    def news(self) -> list[News]:
        """What others than this mount have changed since this was asked last, as far as it was seen."""
        with self._lock:
            return self._known.news()

    def subtree(self, path: str) -> list[Item]:
        """Every known item at or below `path`, shadowed and hidden ones too."""
        with self._lock:
            tree = self._known.tree
            return [*tree.candidates(path), *tree.below(path)]

    def hidden(self) -> list[Item]:
        """Every known item with a hidden name, or below one, of this mount and of others."""
        with self._lock:
            return self._known.tree.hidden()

    def known(self, item_id: str) -> Item | None:
        """What is known of the item of this id, shown or not."""
        with self._lock:
            return self._known.tree.get(item_id)

    def seen_at(self, item: Item) -> float:
        """When this version of an item was last known to be at its path, in seconds of the clock; -inf if that is in doubt, or
        another version is known by now.
        """
        with self._lock:
            return self._known.seen_at(item)

    def listed_since(self, moment: float) -> bool:
        """True if the snapshot began after `moment`, in seconds of the clock."""
        return self._known.snapshot.began > moment

    @property
    def recent(self) -> float:
        """How old a snapshot that shows a directory empty may be, in seconds since its listing began (R12)."""
        return self._usual + max(_RECENT, self._usual)

    @property
    def shown_for(self) -> float:
        """Seconds for which a lookup shows an answer without another request."""
        return self._bound

    @property
    def snapshot_number(self) -> int:
        """How many snapshots have been read so far."""
        return self._known.snapshots

    @property
    def revision(self) -> int:
        """A number that grows with each request and each change of ours: while it is the same, `peek` has the same answers."""
        return self._known.count + self._known.snapshots

    def edition(self) -> int:
        """The `revision` while a fresh snapshot gives every lookup the same answer; 0 if none is fresh."""
        known = self._known  # without another call: every getattr asks this
        fresh = known.snapshot.began > self._clock() - self._bound
        return known.count + known.snapshots if fresh else 0

    def status(self) -> NamespaceStatus:
        """The server's tree as it is known now."""
        with self._lock:
            known = self._known
            error = self._client.health.away or self._breaker.error or self._listings.error
            return NamespaceStatus(
                items=len(known.tree),
                size=sum(item.size or 0 for item in known.tree.items()),
                snapshot_age=self._clock() - known.snapshot.began if known.snapshots else None,
                effective_ttl=self._effective_ttl(),
                listing_seconds=self._durations[-1] if self._durations else 0.0,
                # Where another item came to a taken path, the earlier one is most likely gone.
                shadowed=[found for found in known.tree.shadowed() if known.fresh(found[0])],
                hostile=known.tree.refused(),
                error=None if error is None else str(error),
            )

    @property
    def unreachable(self) -> bool:
        """True if the server could not be asked the last time."""
        return self._breaker.error is not None or self._client.health.away is not None

    # our own changes

    def publish(self, item: Item, was: str = "", *, kept: bool = False) -> None:
        """The answer to our own create or update: the item now is at its path, with all that was below it at `was`.

        `kept`: as a second version.
        """
        with self._lock:
            self._known.publish(item, was, kept=kept)
            self._breaker.succeeded(self._clock())

    def forget(self, item: Item) -> None:
        """Our own delete, or a 404: the item is gone with all below it; what it shadowed shows again."""
        with self._lock:
            self._known.forget(item)

    def touch(self, path: str) -> None:
        """Trust nothing known of `path`, or of what is below it: the next lookup asks."""
        with self._lock:
            self._known.touch(path)

    # what to ask (under the lock)

    def _choose(self, path: str, not_before: float, max_age: float | None, mine: Deadline) -> Flight | None:
        """The find or listing that will tell of `path`; None: serve what is known."""
        shown = self._known.tree.at(path)
        if max_age is None and self._young_enough(path, shown):
            return None
        if self._listing_pays(shown, max_age):
            return self._board(None, mine, insists=max_age is not None)
        return self._board(path, mine, not_before, insists=max_age is not None)

    def _effective_ttl(self) -> float:
        """How old a snapshot may be before another one is read."""
        return max(self._bound, _SHARE * self._usual)

    def _storm(self) -> bool:
        """True if another find would be too many within a second."""
        return len(self._finds) == _HANDFUL and self._finds[0] > self._clock() - _SECOND

    def _young_enough(self, path: str, shown: Item | None) -> bool:
        """True if a listing would be due, but the last one is within the effective TTL, and `path` in no doubt."""
        due = self._storm() or (shown is not None and shown.implicit)
        return due and self._known.fresh(path, self._clock() - self._effective_ttl())

    def _listing_pays(self, shown: Item | None, max_age: float | None) -> bool:
        """True if a listing is to tell of a path, and not a find (section 1, Cost control); `shown`: what was there last.

        Only a listing sees implicit directories, and names that are being saved.
        """
        if shown is not None and shown.implicit:
            return True
        if self._listings.error is not None:
            return False
        if not self._known.snapshots:
            return True
        age = self._clock() - self._known.snapshot.began
        if max_age is not None:
            # A listing that takes longer would be too old at once.
            return self._storm() and age > max_age > _SHARE * self._durations[-1]
        return (self._find_may_miss(shown) or self._storm()) and age > self._effective_ttl()

    def _find_may_miss(self, shown: Item | None) -> bool:
        """Return whether an unknown name may be that of a directory that no item stands for, which `find` does not see."""
        return shown is None and (self._known.implicit_seen or self._pages == 1)

    def _board(self, path: str | None, mine: Deadline, not_before: float = NEVER, *, insists: bool) -> Flight:
        """The request under way for a path (None: the listing) that began at `not_before` or later, or a new one.

        There are never two listings at once, so a caller may have to wait for one and then for another. Raises the error of calls
        just before; not if the caller `insists`: it has something to change, and the time to ask.
        """
        flight = self._flights.get(path)
        needed = 0 if path is None else self._known.needed(path)
        if flight is not None and flight.began >= not_before and flight.ticket >= needed:
            return flight
        now = self._clock()
        if not insists:
            if self._client.health.away is None:
                self._breaker.check(now)
            if path is None:
                self._listings.check(now)
        if path is not None:
            self._finds.append(now)
        flight = self._flights[path] = Flight(path, now, self._known.takeoff(), mine)
        return flight

    # asking (without the lock)

    def _ask(self, ask: Callable[[], None], stale: Callable[[], bool], max_age: float | None) -> None:
        """Ask the server. If it can't be asked, known names are served where `stale` allows it, and there is no `max_age`."""
        if max_age is not None:
            return ask()
        with self._lock:
            serves = self.unreachable and stale()
        if serves and not self._client.answers():
            return None
        try:
            ask()
        except COULD_NOT_ASK:
            with self._lock:
                if not stale():
                    raise

    def _look_up(self, path: str, not_before: float, max_age: float | None) -> None:
        """Have a find or a listing tell of a path."""
        with self._lock:
            mine = self._deadline(max_age is None and self._serves_stale(path))
        for _ in range(_ROUNDS):
            with self._lock:
                if self._known.fresh(path, not_before):
                    return
                flight = self._choose(path, not_before, max_age, mine)
            if flight is None:
                return
            try:
                self._ride(flight, mine)
            except (ContractError, UnavailableError):
                if flight.path is not None or self._listings.error is None:
                    raise

    def _list_directory(self, path: str, max_age: float | None) -> None:
        """Get a snapshot that is young enough for a directory; names in it that are in doubt are asked for one by one.

        These were changed here since the listing began. Else saves would have a long listing read again and again.
        """
        not_before = self._clock() - (self._effective_ttl() if max_age is None else max_age)
        with self._lock:
            mine = self._deadline(max_age is None and self._lists_stale(path))
        for _ in range(_ROUNDS):
            with self._lock:
                doubtful = self._known.doubtful_children(path)
                few = len(doubtful) <= max(_FEW, self._pages)
                if few and self._known.complete(path, not_before):
                    break
                flight = self._board(None, mine, insists=max_age is not None)
            self._ride(flight, mine)
            doubtful = []
        for child in doubtful:
            self.lookup(child, max_age)

    def _deadline(self, known: bool) -> Deadline:
        """How long a call asks: only a moment if its answer is `known`, and to be confirmed."""
        moment = max(_PATIENCE, _TIMES * (self._client.health.latency or 0.0))
        return Deadline(moment if known else UNBOUNDED, current(), waited=False)

    def _ride(self, flight: Flight, mine: Deadline) -> None:
        """Make the request, or wait for the call that makes it, within `mine`; raises its error.

        Returns early, without an answer, if that call had less time than is left here.
        """
        with bound_by(mine):
            if flight.deadline is mine:
                self._fly(flight)
                return
            with flight.deadline.joined(mine):
                error = result(flight.over, "what another call has asked for")
            its_own = isinstance(error, NOT_ASKED) or (isinstance(error, UnavailableError) and flight.hasty)
            if error is not None and not (its_own and mine.left() > 0):
                raise again(error)

    def _fly(self, flight: Flight) -> None:
        """Make the request, for all who wait for it. Raises its error."""
        error: ApiError | None = UnavailableError("the request was broken off")
        try:
            if flight.path is None:
                self._list(flight)
            else:
                self._find(flight, flight.path)
            error = None
        except COULD_NOT_ASK as exc:
            error = exc
        except ApiError as exc:
            # A 404 is about the job, and a listing that is refused says nothing of a name: neither may look like "no such file".
            told = flight.path is not None and not isinstance(exc, NotFoundError)
            error = exc if told else UnavailableError(str(exc), status=exc.status)
        finally:
            with self._lock:
                self._land(flight, error)
            flight.over.set_result(error)
        if error is not None:
            raise error

    def _land(self, flight: Flight, error: ApiError | None) -> None:
        """A request is over: it may have shown that the server can't be asked, or that only its listing is no good."""
        if self._flights.get(flight.path) is flight:
            del self._flights[flight.path]
        self._known.land(flight.ticket)
        now = self._clock()
        if error is None:
            self._breaker.succeeded(now)
            if flight.path is None:
                self._listings.succeeded(now)
        elif isinstance(error, COULD_NOT_ASK) and not isinstance(error, NOT_ASKED):
            self._note_failure(flight, error, now)

    def _note_failure(self, flight: Flight, error: ApiError, now: float) -> None:
        only_listings = flight.path is None and (isinstance(error, ContractError) or error.status in _FAULTS)
        breaker = self._listings if only_listings else self._breaker
        # api/health.py logs that there is no way to the server, or that it stays silent.
        if breaker.error is None and not (flight.hasty or error.errno == errno.ENETUNREACH):
            log.warning("the server can't be asked (%s): known names are served as they were", error)
        breaker.failed(error, flight, now)

    def _find(self, flight: Flight, path: str) -> None:
        items = self._client.find(path)
        with self._lock:
            tree = self._known.tree
            missed = not items and tree.candidates(path) and not tree.inhabited(path)
        if missed:
            self._pause(_MOMENT)
            items = self._client.find(path)
        with self._lock:
            self._known.found(flight.ticket, flight.began, path, items)

    def _list(self, flight: Flight) -> None:
        known = self._known.tree  # freed at the end: a big tree takes a while, and the lock is not held then
        ids = {item.id for item in known.items()}
        items, pages = self._lister.read(ids, partial(self._changed, flight.ticket))
        seconds = self._clock() - flight.began
        tree = Tree.of(items)
        with self._lock:
            missed = missed_names(known, tree)
        if missed:
            self._pause(_MOMENT)
            for path in missed:
                tree.settle(path, self._client.find(path))
        with self._lock:
            self._known.listed(flight.ticket, flight.began, tree)
            self._pages = pages
            self._durations.append(seconds)
            if len(self._durations) >= _ENOUGH:
                self._usual = statistics.median(self._durations)

    def _changed(self, ticket: int) -> set[str]:
        with self._lock:
            return self._known.changed(ticket)

    # when nobody answers (under the lock)

    def _serves_stale(self, path: str) -> bool:
        """True if the known item at `path`, or that none is there, may be served though the server could not be asked."""
        known = self._known
        confirmed = self._clock() - known.confirmed(path) <= self._stale_if_error
        return confirmed and (known.tree.at(path) is not None or known.fresh(path))

    def _lists_stale(self, path: str, most: float | None = None) -> bool:
        """True if a directory's entries, `most` or `stale_if_error` seconds old, may be served without asking the server."""
        known, most = self._known, self._stale_if_error if most is None else most
        shown = known.tree.at(path)
        if shown is None or not shown.is_dir or self._clock() - known.snapshot.began > most:
            return False
        # The entries of a directory that came after the last listing are not known: it must not look empty.
        return known.snapshot.ticket >= known.needed(path) or bool(known.tree.children(path))

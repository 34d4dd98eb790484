"""Overlapped saves: when a promote may be sent before its set-aside is answered, and how long after it (save/protocol.md R13)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from functools import partial

from jobfs.api import deadline
from jobfs.api.wire import HeldConnection
from jobfs.errors import ApiError, BadRequestError
from jobfs.nodes import Item
from jobfs.save.context import Context, Observation
from jobfs.save.upload import Uploader
from jobfs.state import Change
from jobfs.state.records import Aside, Verb

Outcome = Future[Item]
#: Send a request on the given held connection, the first one justified by an observation; return the reply. Raise ApiError.
FirstRequest = Callable[[Observation, HeldConnection | None], Item]
SecondRequest = Callable[[HeldConnection], Item]

#: Shortest round trip, in seconds, at which requests overlap: below that, little time can be saved.
_WORTH = 0.008
#: The shortest stagger in seconds: on a busy machine, the switch to another thread takes as long.
_LEAST = 0.002
#: The first stagger, as a fraction of a round trip.
_FIRST = 0.25
#: Factors of the stagger: after a success before the first refusal, after a success from then on, and after a refusal.
_HALF, _LESS, _DOUBLE = 0.5, 0.97, 2.0


class _NotSentError(Exception):
    """Signal that the second request was not sent, because the first was answered before the stagger had passed."""


class Stagger:
    """The time between a set-aside and its promote: the shortest with which the server nearly always keeps their order.

    Any thread may call its methods. After the first refusal a success takes off little: with halving, the server would refuse
    every second promote.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: float | None = None
        self._success = _HALF

    def seconds(self, round_trip: float) -> float:
        """Return the stagger in seconds, at most one usual `round_trip` (seconds)."""
        return min(self._current_seconds(round_trip), round_trip)

    def note_success(self, round_trip: float) -> None:
        """Note that a set-aside and its promote were carried out in order: shorten the stagger. `round_trip` in seconds."""
        with self._lock:
            self._seconds = max(_LEAST, self.seconds(round_trip) * self._success)

    def note_refusal(self, waited: float) -> None:
        """Note that a promote sent after `waited` seconds was refused: raise the stagger to at least twice that.

        Promotes that were sent at the same time and refused together double the stagger once.
        """
        with self._lock:
            self._success = _LESS
            self._seconds = max(self._seconds or 0.0, waited * _DOUBLE)

    def _current_seconds(self, round_trip: float) -> float:
        return round_trip * _FIRST if self._seconds is None else self._seconds


class OverlapSender:
    """Decides whether the requests of a save in place overlap, and sends them. Any thread may call its methods."""

    def __init__(self, context: Context, uploader: Uploader) -> None:
        self._context = context
        self._client = context.client
        self._uploader = uploader
        self._stagger = Stagger()

    def choose_stagger(self, change: Change, aside: Aside) -> float | None:
        """Return the stagger in seconds for the set-aside of `aside`; None if promote must wait for its answer (R13)."""
        worth = change.verb is not Verb.MKDIR and self._round_trip >= _WORTH
        if not worth or not self._has_no_lost_request(change, aside):
            return None
        if not self._context.server.facts.moves_refused:
            self._uploader.count_replacement_and_probe(change.target)
            return None
        return self._stagger.seconds(self._round_trip)

    def send_pair(
        self, observation: Observation, first: FirstRequest, second: SecondRequest, stagger: float
    ) -> tuple[Outcome, Outcome | None]:
        """Send `first`, which `observation` justifies, and `stagger` seconds later `second` from another thread; return both
        outcomes.

        The second outcome is None if `second` was not sent: `first` was answered earlier, or was not sent, or there are too few
        connections. Raises as `Client.hold_two_connections`; then nothing was sent.
        """
        with self._client.hold_two_connections(observation.item.path) as connections:
            if connections is None:
                return _run_request(partial(first, observation, None)), None
            try:
                # Here and not in `first`: another look takes longer than the stagger.
                observation = self._context.renew_if_old(observation, connections[0])
            except ApiError as error:
                return _failed_outcome(error), None
            connections[0].sent_event.clear()
            return self._send_on_held(
                partial(first, observation, connections[0]),
                connections[0].sent_event,
                partial(second, connections[1]),
                stagger,
            )

    def _send_on_held(
        self, first: Callable[[], Item], is_sent: threading.Event, second: Callable[[], Item], stagger: float
    ) -> tuple[Outcome, Outcome | None]:
        """Send both requests on held connections, and join them on every way out. Return as `send_pair`."""
        answered = threading.Event()

        def follow() -> Item:
            is_sent.wait()
            if answered.wait(stagger):
                raise _NotSentError
            return second()

        following = self._context.promote_pool.submit(deadline.bind_deadline(follow))
        deadline.call_blocking_hook()
        try:
            sent = _run_request(first)
        finally:
            answered.set()
            is_sent.set()
            futures.wait([following])
        self._adapt_stagger(sent, following, stagger)
        return sent, None if isinstance(following.exception(), _NotSentError) else following

    def _adapt_stagger(self, sent: Outcome, following: Outcome, stagger: float) -> None:
        """Adapt the stagger to both outcomes; a set-aside that was answered before its promote was due is a success, too."""
        error = following.exception()
        if error is None or (isinstance(error, _NotSentError) and sent.exception() is None):
            self._stagger.note_success(self._round_trip)
        elif isinstance(error, BadRequestError):
            self._stagger.note_refusal(max(stagger, _LEAST))

    @property
    def _round_trip(self) -> float:
        """The usual seconds until an answer begins; 0.0 before the first answer."""
        return self._client.health.latency or 0.0

    def _has_no_lost_request(self, change: Change, aside: Aside) -> bool:
        """Return whether `aside` is the first of its save, and no request of the save, on the item or on H is unanswered."""
        unsure = aside.unsure_until or self._context.unsure_until(change.staged_id)
        return change.asides == [aside] and not (change.outcome_unknown or unsure)


def _failed_outcome(error: ApiError) -> Outcome:
    outcome: Outcome = Future()
    outcome.set_exception(error)
    return outcome


def _run_request(send: Callable[[], Item]) -> Outcome:
    """Send a request in this thread, and return its outcome: the reply or the error."""
    outcome: Outcome = Future()
    try:
        outcome.set_result(send())
    except Exception as error:
        outcome.set_exception(error)
    return outcome

"""Requests in the air that several callers may wait for (single flight), and the pause after a failure."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from jobfs.api.deadline import Deadline, current, result
from jobfs.errors import (
    ApiError,
    ContractError,
    HeldBackError,
    OutOfTimeError,
    UnauthorizedError,
    UnavailableError,
    again,
)

#: Errors that say nothing of a name: the server was not reached, or does not talk to us as it should.
COULD_NOT_ASK = (UnavailableError, UnauthorizedError, ContractError)
#: Of these errors, those that say nothing of the server either.
NOT_ASKED = (OutOfTimeError, HeldBackError)
#: Seconds after a failure in which only one call asks again.
_PAUSE = 1.0


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

    def wait(self) -> None:
        """Wait until the request is over; raises its error, or OutOfTimeError(ETIMEDOUT) if the call may not wait so long."""
        with self.deadline.joined(current()):
            error = result(self.over, "what another call has asked for")
        if error is not None:
            raise again(error)


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

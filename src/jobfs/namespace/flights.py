"""Requests in the air that several callers may wait for (single flight)."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, field

from jobfs.api.deadline import UNBOUNDED, Deadline, current, result
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


@dataclass(eq=False, slots=True)
class Flight:
    """One request under way: its path (None: a listing), when it began, its ticket, and its error if it failed.

    `deadline`: that of the call which makes the request, once it has begun.
    """

    path: str | None
    began: float
    ticket: int
    error: ApiError | None = None
    deadline: Deadline | None = None
    _over: Future[None] = field(default_factory=Future)

    @property
    def hasty(self) -> bool:
        """True if the call that made it had a bound of its own, and that has passed: one slow answer is no outage."""
        return self.deadline is not None and self.deadline.timeout < UNBOUNDED and self.deadline.left() <= 0

    def land(self, error: ApiError | None) -> None:
        """The request is over: callers that wait go on."""
        self.error = error
        self._over.set_result(None)

    def wait(self) -> None:
        """Wait until the request is over; raises its error, or OutOfTimeError(ETIMEDOUT) if the call may not wait so long."""
        with contextlib.nullcontext() if self.deadline is None else self.deadline.joined(current()):
            result(self._over, "what another call has asked for")
        if self.error is not None:
            raise again(self.error)

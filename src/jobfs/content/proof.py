"""Proof that the bytes of several replies are of one version (vfs/semantics.md 3.13).

A reply with bytes does not name their version. If the item still shows the same `updatedAt` and size after the headers of a
reply came, that reply and all earlier ones are of this version.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator

from jobfs.api.client import Client
from jobfs.api.deadline import (
    UNBOUNDED,
    Deadline,
    current_deadline,
    use_deadline,
    wait_for_notification,
)
from jobfs.errors import ApiError, NotFoundError, copy_error
from jobfs.nodes import Item, has_subsecond

#: Seconds within which two contents may share an `updatedAt`: if it has whole seconds, and if it has a fraction.
_COARSE, _FINE = 2.0, 0.05


class StaleVersionError(ApiError):
    """The server no longer has this version, because the job wrote the item in place: look up and open again."""

    errno = errno.ESTALE


def is_racy(updated_ns: int, began: float) -> bool:
    """Return whether a version may have had other bytes than those whose download began at `began`.

    `began`: seconds since the epoch by the server's clock. A version is an item's id, `updatedAt` and size (vfs/semantics.md
    3). If `updatedAt` has whole seconds, the job may write twice within one second, with the same size. So bytes whose
    download began less than 2 s after the change serve only handles that are open now. One of these seconds is for the
    resolution, one for the error of the estimate of the server's clock. If `updatedAt` has a fraction, 50 ms are enough. An
    `updatedAt` that cannot be read proves nothing.
    """
    if updated_ns == 0:
        return True
    return began < updated_ns / 1e9 + (_FINE if has_subsecond(updated_ns) else _COARSE)


class VersionProof:
    """Proof that all bytes that came for the version that `item` shows, of `size` bytes, are of that version.

    `replies`: number of replies with these bytes that have sent their headers. `stale`: the error for readers once the server
    has shown another version. `first_request_at`: the time of `clock` at the first request. `asking_deadline`: that of the
    thread that is asking the server; None if there is none. `cond` uses the store's lock.
    """

    def __init__(
        self, item: Item, size: int, client: Client, cond: threading.Condition, clock: Callable[[], float]
    ) -> None:
        self.replies = 0
        self.stale: StaleVersionError | None = None
        self.first_request_at: float | None = None
        self.asking_deadline: Deadline | None = None
        self._verified_replies = 0  # this many replies, from the first on, are proved
        self._item_id = item.id
        self._size = size
        self._updated_ns = item.updated_ns
        self._stamps = {item.updated_at}  # each value that it had: requests of this mount may change it
        self._client = client
        self._cond = cond
        self._clock = clock

    @property
    def is_proven(self) -> bool:
        """Whether all bytes are of one version: those of one reply are, those of several once they are verified."""
        return self.stale is None and (self.replies <= 1 or self._verified_replies == self.replies)

    def raise_if_stale(self) -> None:
        """Raise StaleVersionError if the server is known to have another version."""
        if self.stale is not None:
            raise copy_error(self.stale)

    def require_verification(self) -> None:
        """Require a proof even for the next reply alone, because a program may have bytes from elsewhere."""
        self.replies = max(self.replies, 1)

    # -- asking the server ----------------------------------------------------------------------------------

    def verify_version(self) -> None:
        """Prove that all replies whose headers have come are of this version: asked after them, the server still shows it.

        Raises StaleVersionError if the version is gone, ApiError if that cannot be determined.
        """
        with self.hold_version_exclusively() as deadline:
            self.raise_if_stale()
            if self.is_proven:
                return
            replies, shown = self.replies, None
            with contextlib.suppress(NotFoundError), use_deadline(deadline):
                shown = self._client.get(self._item_id)
            if shown is None or not self.is_shown_by(shown):
                self.stale = StaleVersionError("download: the item was written while it was read")
                raise copy_error(self.stale)
            self._verified_replies = replies

    @contextlib.contextmanager
    def hold_version_exclusively(self) -> Iterator[Deadline]:
        """For the block, make this thread the only one that asks about this version or changes its `updatedAt`.

        Other threads wait, each until its own deadline, which progress in the block extends. Raises
        OutOfTimeError(ETIMEDOUT).
        """
        deadline = Deadline(UNBOUNDED, current_deadline(), foreground=False)
        with self._cond:
            while self.asking_deadline is not None:
                with self.asking_deadline.attach_waiter(current_deadline()):
                    wait_for_notification(self._cond, "download: asking whether the item was written")
            self.asking_deadline = deadline
        try:
            yield deadline
        finally:
            with self._cond:
                self.asking_deadline = None
                self._cond.notify_all()

    # -- what the server shows ------------------------------------------------------------------------------

    def is_shown_by(self, item: Item) -> bool:
        """Return whether `item` shows this version."""
        return item.updated_at in self._stamps and item.size in (None, self._size)

    def accept_as_same_version(self, before: Item, after: Item) -> None:
        """Let the `updatedAt` of `after` name this version, too, if `before` shows it."""
        if self.is_shown_by(before):
            self._stamps.add(after.updated_at)

    # -- time -----------------------------------------------------------------------------------------------

    @property
    def is_racy(self) -> bool:
        """Whether this version may also have had other bytes than those that came."""
        return self.first_request_at is not None and self._is_racy(self.first_request_at)

    @property
    def is_ambiguous(self) -> bool:
        """Whether this version may name other bytes by now: its time is a whole second, which is over."""
        return not (has_subsecond(self._updated_ns) or self._is_racy(self._clock()))

    def _is_racy(self, began: float) -> bool:
        return is_racy(self._updated_ns, began + self._client.server_time_offset)

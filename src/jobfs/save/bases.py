"""What this mount knows of the versions that saves replace, and learns where timestamps will not do (save/protocol.md R1, R2)."""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import Future
from dataclasses import replace

from jobfs.api import Client, deadline
from jobfs.errors import ApiError, NotFoundError, UnavailableError
from jobfs.nodes import Item
from jobfs.save.context import Context
from jobfs.state import Change, edit
from jobfs.state.records import Base

log = logging.getLogger("jobfs.save")

#: Timestamps younger than this, in seconds, do not prove that bytes are equal (R1).
YOUNG = 2.0
#: The largest content, in bytes, that a rename waits to see hashed.
_HASHED = 8 << 20
#: Seconds to wait for bytes that a reader was given just now to be in their place.
_SETTLING = 0.1


def sha256_of(client: Client, item_id: str, size: int | None) -> str:
    """The hash, in hex, of an item's bytes as the server has them now; `size` as far as it is known. Raises ApiError."""
    digest = hashlib.sha256()
    with client.download(item_id, size=size) as body:
        for chunk in body.chunks():
            digest.update(chunk)
    return digest.hexdigest()


def with_bytes(client: Client, item: Item, digest: str) -> Item | None:
    """The item as it is now, if it has these bytes and was neither written to nor moved while they were read. Raises ApiError."""
    try:
        if sha256_of(client, item.id, item.size) != digest:
            return None
        now = client.get(item.id)
    except NotFoundError:
        return None
    return now if (now.version, now.path) == (item.version, item.path) else None


def version_hash(client: Client, item: Item) -> str:
    """The hash, in hex, of the bytes of just this version; "" if the server has them no more. Raises UnavailableError."""
    try:
        digest = sha256_of(client, item.id, item.size)
        return digest if client.get(item.id).version == item.version else ""
    except UnavailableError:
        raise
    except ApiError:
        return ""


class Bases:
    """One for a mount. Every method may be called from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = context.client
        self._content = context.content
        self._state = context.state

    def of(self, item: Item | None, *, young: bool | None = None) -> Base:
        """The base that a version shown by this mount makes for a save."""
        if item is None or item.implicit:
            return Base()
        young = self.young(item) if young is None else young
        digest = self.known_hash(item)
        if not digest and young and not self._content.fine_clock(item.updated_at):
            # Its bytes can't be learned any more: the job may write others in the same second. If they are ours, they show it.
            file = self._state.of(item)
            digest = file.sent if file is not None else ""
        return Base.of(item, sha256=digest, young=young)

    def young(self, item: Item) -> bool:
        """True if the item's timestamp is too recent to prove that its bytes did not change (R1)."""
        return self._context.age(item) < YOUNG

    def known_hash(self, item: Item) -> str:
        """The hash of a version that was saved here, or whose bytes are on this machine, else "" (R2)."""
        file = self._state.of(item)
        sent = file.sha256 if file is not None and file.version == item.updated_at else ""
        if sent and self._content.fine_clock(item.updated_at):
            return sent
        # Else the job may have written in the same second; what was shown since is here.
        if item.is_dir or not self._content.whole(item, _SETTLING):
            return sent
        with self._content.open(item) as content:
            return content.sha256() or ""

    def carry(self, before: Item, after: Item) -> None:
        """Our own move may have changed `updatedAt`: remembered times go on to hold, the hash of the bytes does not (R2)."""
        if before.updated_at == after.updated_at:
            return
        known = self._last_known(before, after)
        with self._state.lock:
            file = self._state.of(after)
            if file is not None and file.here:
                return
            if file is not None and file.version == before.updated_at:
                self._state.write(edit(file, version=after.updated_at, sha256="", sent=known or file.sent))
            elif known:
                self._state.write(edit(self._state.open(after), sent=known))

    def _last_known(self, before: Item, after: Item) -> str:
        """The hash of a small item's bytes, where the server's clock is too coarse to learn it after the move (see `of`)."""
        coarse = not self._content.fine_clock(after.updated_at)
        return self.known_hash(before) if coarse and (before.size or 0) <= _HASHED else ""

    # -- learned while the new bytes are on their way

    def learn(self, change: Change) -> None:
        """Fetch the base's bytes beside what is being sent, if they will have to be compared.

        What is read now are the base's bytes only if a write of the job since it was opened would show.
        """
        base, item = change.base, change.base_item
        if not base.id or base.sha256 or item is None or item.id != base.id or item.is_dir:
            return
        fine = self._content.fine_clock(base.updated_at)
        if change.learning is None and (
            fine if base.young else not self._context.known.moves_keep_updated_at
        ):
            change.learning = self._context.beside.submit(deadline.carried(self._read), item)

    def _learned(self, change: Change, there: Item) -> tuple[str, float]:
        """What `learn` has read, or reads now if others are in its way and it has not begun; as `_read`. Raises ApiError."""
        if change.learning.cancel():
            change.learning = Future()
            change.learning.set_result(self._read(there))
        learned: tuple[str, float] = deadline.result(change.learning, f"reading {change.target}")
        return learned

    def _read(self, item: Item) -> tuple[str, float]:
        """The hash of just this version, "" if there is none to be had, and when it had been read (monotonic seconds).

        Raises UnavailableError: that says nothing of it, and the save is tried again.
        """
        small = item.size is None or item.size <= self._context.cache_limit
        return version_hash(self._client, item) if small else "", time.monotonic()

    def adopt(self, change: Change, there: Item, answered: float) -> bool:
        """Adopt the hash of the base's bytes, if what stands at the target still is that version.

        False if the look at `there`, `answered` (monotonic seconds) before they had been read, can't tell that: look again.
        Raises UnavailableError.
        """
        base = change.base
        if there.id != base.id or there.updated_at != base.updated_at:
            return True
        if change.learning is None:
            # Taken up from the journal: nobody has read yet what it replaces.
            change.base_item = there
            self.learn(change)
        if change.learning is None:
            return True
        try:
            digest, read = self._learned(change, there)
        except ApiError:
            change.learning = None
            raise
        if digest and answered < read:
            return False
        if digest and there.size in (None, base.size):
            change.base = replace(base, sha256=digest)
        return True

"""The conflict check: what becomes of an item set aside (R1, R3, R7).

It is deleted if it is what the save was based on, else kept beside it. All of this is off the critical path; the caller has
synced `placed` (or `cancelled`) before the first delete.
"""

from __future__ import annotations

import logging
import time

from jobfs import names
from jobfs.content import Content
from jobfs.errors import AnswerLostError, ApiError, NotFoundError, PathExistsError
from jobfs.nodes import Item, Kind
from jobfs.save.bases import sha256_of, with_bytes
from jobfs.save.context import Context
from jobfs.state.records import Aside, Base, Fate

log = logging.getLogger("jobfs.save")

_NAMES = 50
#: Times that bytes are read again because the item was touched meanwhile.
_READS = 3
#: Seconds between a look and a delete that are no pause.
_PAUSE = 0.05
_CHANGED = "changed by the job while it was being saved here"


class ConflictCheck:
    """Decides over asides and carries it out. May be called from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = context.client

    def settle(self, aside: Aside, target: str, base: Base, saved: str) -> bool:
        """Bring one aside to its fate; True when nothing is left to do, False to come back at `aside.unsure_until`.

        `saved`: hash of the bytes that replaced it. Raises ApiError to come back later.
        """
        if aside.unsure_until > time.time():
            return False
        if aside.fate is Fate.LOST:
            return self._delete_lost(aside)
        try:
            reads = self._has_to_read(aside, base, saved)
            read = sha256_of(self._client, aside.id, aside.size) if reads else ""
            # One look serves both: the bytes are those of this version (R1), and the name is still ours (R7).
            item = self._client.get(aside.id)
        except NotFoundError:
            return True
        if names.basename(item.path) != aside.name:
            # Someone gave it another name: it is theirs now.
            return True
        if aside.fate is Fate.RETURN:
            return self.give_back(aside, item, target)
        if aside.fate is Fate.EMPTY:
            return self._delete_empty(aside, item, target)
        try:
            ours = self._ours(aside, item, base, saved, read)
        except NotFoundError:
            # Deleted by the job, or given another name, while its bytes were read.
            return True
        return self._delete(aside, item) if ours else self.keep(aside, item, target)

    def _has_to_read(self, aside: Aside, base: Base, saved: str) -> bool:
        """True if only its bytes tell whether it is ours, as far as the set-aside's answer goes."""
        if aside.fate is not Fate.CHECK or aside.kind is Kind.DIRECTORY or not (base.sha256 or saved):
            return False
        if aside.unsure_until or not aside.updated_at:
            return False
        if None not in (base.size, aside.size) and base.size != aside.size:
            return False
        return base.young or (aside.id, aside.updated_at) != (base.id, base.updated_at)

    def _ours(self, aside: Aside, item: Item, base: Base, saved: str, read: str) -> bool:
        """True if the item still holds what the save was based on, or what it saved (R1); never a guess.

        `read`: the hash of its bytes, if they were read before it was looked at. Raises NotFoundError if it is theirs now (R7).
        """
        sent = self._context.sent.get(item.id, "")
        resized = _resized(base, item)
        if item.is_dir or (resized and not sent):
            return False
        untouched = item.updated_at == aside.updated_at != ""
        if untouched and not resized and _has_time_of(item, base):
            return True
        # Equal bytes prove it, whatever has touched the item since: a rename of its directory, a set-aside carried out twice.
        known = {base.sha256, saved, sent} - {""}
        if read and untouched:
            return read in known
        return bool(known) and self._has_bytes(aside, item, known)

    def _has_bytes(self, aside: Aside, item: Item, known: set[str]) -> bool:
        """True if the item has bytes of one of these hashes, and was not touched while they were read. Raises NotFoundError."""
        for _ in range(_READS):
            digest = sha256_of(self._client, item.id, item.size)
            before, item = item, self._client.get(item.id)
            if names.basename(item.path) != aside.name:
                raise NotFoundError(f"{item.path} has another name by now", endpoint="get")
            if item.updated_at == before.updated_at:
                return digest in known
        return False

    def _delete(self, aside: Aside, item: Item) -> bool:
        began = time.monotonic()
        spare(self._context, item.id)
        if time.monotonic() - began > _PAUSE:
            return False  # to be looked at again (R7); next time there is nothing to wait for
        return self._send_delete(aside, item)

    def _delete_lost(self, aside: Aside) -> bool:
        return all(self._send_delete(aside, item) for item in self._client.find(aside.path))

    def _send_delete(self, aside: Aside, item: Item) -> bool:
        """Delete an item that is out of the way; False if the answer was lost, and it has to be looked at again (R7)."""
        try:
            self._client.delete(item.id, once=True)
        except NotFoundError:
            pass
        except AnswerLostError:
            aside.unsure_until = time.time() + self._context.lifetime
            return False
        forget(self._context, item)
        return True

    def _delete_empty(self, aside: Aside, item: Item, target: str) -> bool:
        """A directory taken out of the job's reach: still empty in a listing after that: delete, else back to its name (R12)."""
        inside = [other for other in self._context.namespace.subtree(item.path) if other.path != item.path]
        if not all(self.leaves(other) for other in inside):
            log.warning("%s: the job put something into it while it was removed; it is back", target)
            return self.give_back(aside, item, target)
        if inside:
            return False  # what is set aside in there still has to be looked at
        return self._delete(aside, item)

    def leaves(self, item: Item) -> bool:
        """True for a hidden item of this mount that a record is about to delete or to name, or a later listing (R4)."""
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None or parts.mount != self._context.mount:
            return False
        left = parts.role is names.Role.STAGED and self._context.state.journal.tombstone(parts.transaction)
        return left or explained(self._context, item)

    def keep(
        self, aside: Aside, item: Item, target: str, label: str = "conflict", reason: str = _CHANGED
    ) -> bool:
        """Show the item as `name.<label>-<time>.ext` beside the target, and tell the user. True when done."""
        where = names.join(names.parent(item.path), names.basename(target))
        for attempt in range(_NAMES):
            path = names.beside(where, label, attempt=attempt)
            try:
                answer = self._client.update(item.id, path=path)
            except PathExistsError:
                continue
            except NotFoundError:
                return True
            except AnswerLostError:
                answer = self._client.get(item.id)
                if names.basename(answer.path) == aside.name:
                    aside.unsure_until = time.time() + self._context.lifetime
                    return False
            self._context.namespace.publish(answer)
            log.warning("%s: %s; kept as %s", target, reason, answer.path)
            return True
        return False

    def give_back(self, aside: Aside, item: Item, target: str) -> bool:
        """Give it its name again, or show it beside what has that by now. True when done. Raises ApiError."""
        # Its directory may have been renamed meanwhile.
        back = names.join(names.parent(item.path), names.basename(target))
        try:
            self._context.namespace.publish(self._client.update(item.id, path=back))
        except PathExistsError:
            return self.keep(aside, item, target)
        except NotFoundError:
            return True
        except ApiError:
            aside.unsure_until = time.time() + self._context.lifetime
            raise
        return True


def _resized(base: Base, item: Item) -> bool:
    return None not in (base.size, item.size) and item.size != base.size


def _has_time_of(item: Item, base: Base) -> bool:
    """True if it is the item that the save was based on, with a timestamp that proves that it was not written to (R1)."""
    return (item.id, item.updated_at) == (base.id, base.updated_at) and not base.young


def explained(context: Context, item: Item) -> bool:
    """True if a Change of this mount knows this hidden item."""
    parts = names.parse_hidden(names.basename(item.path))
    with context.state.lock:
        for change in context.state.changes.values():
            if item.id == change.staged_id or (parts is not None and parts.transaction == change.tid):
                return True
            if any(
                item.id == aside.id or (not aside.id and aside.path == item.path) for aside in change.asides
            ):
                return True
    return False


def spare(context: Context, item_id: str) -> None:
    """Before an item is deleted: open handles get its bytes onto this machine. Raises ApiError, FsError."""
    for file in list(context.state.opened.values()):
        for handle in list(file.handles):
            content = handle.content
            if handle.item is not None and handle.item.id == item_id and isinstance(content, Content):
                content.fetch()


def is_base(context: Context, item: Item, base: Base) -> bool:
    """True if the item still is the version that a save was to replace: what the user saw. Raises ApiError."""
    if item.id != base.id:
        return False
    proof = not (base.young and base.sha256) or context.content.fine_clock(base.updated_at)
    if proof and item.updated_at == base.updated_at and item.size == base.size:
        return True
    # Of a version of ours whose answer was lost, or that was moved with its directory, only the bytes are known (R2).
    return bool(base.sha256) and with_bytes(context.client, item, base.sha256) is not None


def forget(context: Context, item: Item) -> None:
    """The item is gone from the server."""
    context.namespace.forget(item)
    context.state.lose(item.id)

"""What becomes of an item set aside: deleted if it is what the save was based on, else kept beside it (R1, R3, R7).

Everything here is off the critical path. The caller has synced `promoted` (or `cancelled`) before the first delete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from jobfs import names
from jobfs.api import Client
from jobfs.errors import AnswerLostError, ApiError, NotFoundError, PathExistsError
from jobfs.nodes import Item, Kind
from jobfs.writeback.digest import sha256_of
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Aside, Base, Conflict, Fate

log = logging.getLogger("jobfs.writeback")

_NAMES = 50
#: Times that bytes are read again because the item was touched meanwhile.
_READS = 3
#: Seconds between a look and a delete that are no pause.
_PAUSE = 0.05
_CHANGED = "changed by the job while it was being saved here"


class Judge:
    """Decides over asides and carries it out."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        *,
        lifetime: float,
        spare: Callable[[str], None],
        part: Callable[[str], None],
        publish: Callable[[Item], None],
        forget: Callable[[Item], None],
    ) -> None:
        """`spare(item_id)` returns once nothing here needs the item's bytes from the server, or raises ApiError.

        `part(item_id)` returns once no alias stands for the item: it would not know it by another name. Raises ApiError.
        `publish` and `forget` tell the namespace. `lifetime` in seconds (R7).
        """
        self._client = client
        self._journal = journal
        self._lifetime = lifetime
        self._spare = spare
        self._part = part
        self._publish = publish
        self._forget = forget

    def settle(self, aside: Aside, target: str, base: Base, saved: str) -> bool:
        """Judge one aside; True when nothing is left to do, False to come back at `aside.unsure_until`.

        `saved`: hash of the bytes that replaced it. Raises ApiError to come back later.
        """
        if aside.unsure_until > time.time():
            return False
        try:
            read = sha256_of(self._client, aside.id) if self._has_to_read(aside, base, saved) else ""
            # One look serves both: the bytes are those of this version (R1), and the name is still ours (R7).
            item = self._client.get(aside.id)
        except NotFoundError:
            return True
        if names.basename(item.path) != aside.name:
            # Someone gave it another name: it is theirs now.
            return True
        if aside.fate is Fate.RETURN:
            return self._give_back(aside, item, target)
        if aside.fate is Fate.DELETE or self._ours(aside, item, base, saved, read):
            return self._delete(aside, item)
        return self.keep(aside, item, target)

    def _has_to_read(self, aside: Aside, base: Base, saved: str) -> bool:
        """True if only its bytes tell whether it is ours, as far as the set-aside's answer goes."""
        if aside.fate is not Fate.JUDGE or aside.kind is Kind.DIRECTORY or not (base.sha256 or saved):
            return False
        if aside.unsure_until or not aside.updated_at:
            return False
        if None not in (base.size, aside.size) and base.size != aside.size:
            return False
        return base.young or (aside.id, aside.updated_at) != (base.id, base.updated_at)

    def _ours(self, aside: Aside, item: Item, base: Base, saved: str, read: str) -> bool:
        """True if the item still holds what the save was based on, or what it saved (R1); never a guess.

        `read`: the hash of its bytes, if they were read before it was looked at.
        """
        if item.is_dir:
            return False
        if base.size is not None and item.size is not None and item.size != base.size:
            return False
        untouched = item.updated_at == aside.updated_at and bool(aside.updated_at)
        same_time = untouched and item.id == base.id and item.updated_at == base.updated_at
        if same_time and not base.young:
            return True
        # Equal bytes prove it, whatever has touched the item since: a rename of its directory, a set-aside carried out twice.
        known = {digest for digest in (base.sha256, saved) if digest}
        if read and untouched:
            return read in known
        for _ in range(_READS if known else 0):
            digest = sha256_of(self._client, item.id)
            before, item = item, self._client.get(item.id)
            if item.updated_at == before.updated_at:
                return digest in known and names.basename(item.path) == aside.name
        return False

    def _delete(self, aside: Aside, item: Item) -> bool:
        if not _at_once(self._spare, item):
            return False
        try:
            self._client.delete(item.id, once=True)
        except NotFoundError:
            pass
        except AnswerLostError:
            aside.unsure_until = time.time() + self._lifetime
            return False
        self._forget(item)
        return True

    def keep(
        self, aside: Aside, item: Item, target: str, label: str = "conflict", reason: str = _CHANGED
    ) -> bool:
        """Show the item as `name.<label>-<time>.ext` beside the target, and tell the user. True when done."""
        if not _at_once(self._part, item):
            return False
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
                    aside.unsure_until = time.time() + self._lifetime
                    return False
            self._publish(answer)
            self._journal.write(Conflict(answer.path, target, reason, time.time()))
            log.warning("%s: %s; kept as %s", target, reason, answer.path)
            return True
        return False

    def _give_back(self, aside: Aside, item: Item, target: str) -> bool:
        # Its directory may have been renamed meanwhile.
        back = names.join(names.parent(item.path), names.basename(target))
        try:
            self._publish(self._client.update(item.id, path=back))
        except PathExistsError:
            return self.keep(aside, item, target)
        except NotFoundError:
            return True
        except ApiError:
            aside.unsure_until = time.time() + self._lifetime
            raise
        return True


def _at_once(let_go: Callable[[str], None], item: Item) -> bool:
    """Nothing here needs the item any more; False if that took so long that it has to be looked at again (R7)."""
    began = time.monotonic()
    let_go(item.id)
    # Next time there is nothing to wait for.
    return time.monotonic() - began <= _PAUSE

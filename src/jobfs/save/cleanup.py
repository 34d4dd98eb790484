"""Cleanup: what was set aside comes to its fate, what was cancelled is taken back, what nothing explains is shown (R4, R7, R10).

Nobody waits for any of this: what is not done stays in the journal, and the next mount goes on with it.
"""

from __future__ import annotations

import contextlib
import logging
import time

from jobfs import names
from jobfs.errors import ApiError, NotFoundError, PathExistsError
from jobfs.namespace.overlay import shown
from jobfs.nodes import Item
from jobfs.save.bases import with_bytes
from jobfs.save.conflict import ConflictCheck, explained, forget, is_base, spare
from jobfs.save.context import Context
from jobfs.save.upload import Upload
from jobfs.state import Change, edit
from jobfs.state.records import Aside, Fate, Verb

log = logging.getLogger("jobfs.save")

_FOUND = "found under a hidden name that no journal explains"
#: Seconds until an aside is looked at again that is waiting for something else.
_AGAIN = 0.5


class Cleanup:
    """Ends Changes. May be called from any thread, by one for each Change."""

    def __init__(self, context: Context, upload: Upload) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._upload = upload
        self.check = ConflictCheck(context)

    def finish(self, change: Change) -> float:
        """Take a placed or cancelled Change to its end; 0.0 when it has ended, else when to come back (epoch seconds).

        Raises ApiError, FsError to be called again soon.
        """
        # `placed` is on the disk before local bytes go and before the first delete (R3).
        self._state.sync()
        if change.unfinished:
            self._take_back(change)
        for aside in reversed(change.asides):
            if not self._settle(change, aside) and aside.fate is Fate.RETURN:
                break  # the newest one has the name (R11)
        if not change.asides:
            self._state.end(change)
            return 0.0
        later = min(aside.unsure_until for aside in change.asides)
        return max(later, time.time() + _AGAIN)

    def _settle(self, change: Change, aside: Aside) -> bool:
        """Bring an aside to its fate; False if it has to wait."""
        try:
            if aside.fate is Fate.EMPTY and not self._context.namespace.listed_since(change.since):
                # One listing serves all that were taken away before it.
                self._context.namespace.refresh()
            if not self.check.settle(aside, change.target, change.base, change.sha256):
                return False
            with self._state.lock:
                self._state.apply(change, asides=[a for a in change.asides if a is not aside])
                if change.asides:
                    self._state.write((change, {}))
            return True
        except ApiError as error:
            log.info("%s: what was set aside is looked at again later: %s", change.target, error)
            if len(change.asides) == 1:
                raise
            return False

    # -- cancelled

    def _take_back(self, change: Change) -> None:
        """Take back a save whose file was unlinked (R10). Raises ApiError."""
        if change.verb in (Verb.PUT, Verb.MKDIR):
            for item in self._staged(change):
                self._remove(item)
        if change.direct and (own := self._upload.find_direct(change)) is not None:
            self._remove(own)
        if change.verb is Verb.PUT and change.base.id:
            # Before it is looked at: the job may write to it as long as that takes.
            spare(self._context, change.base.id)
            there = shown(self._client.find(change.target))
            if there is not None and is_base(self._context, there, change.base):
                self._remove(there)
        for taken in change.taken:
            self._context.namespace.forget(taken)
        # Its name is free for the next one from here on.
        self._state.write(edit(change, shows={}, tid="", staged_id="", direct=False))

    def _staged(self, change: Change) -> list[Item]:
        if change.staged_id:
            try:
                item = self._client.get(change.staged_id)
            except NotFoundError:
                return []
            return [item] if change.is_staged(item) or self._is_placed(change, item) else []
        return self._client.find(self._hidden(change)) if change.tid else []

    def _hidden(self, change: Change) -> str:
        return names.hidden_path(change.target, self._context.mount, change.tid, names.Role.STAGED)

    def _is_placed(self, change: Change, item: Item) -> bool:
        """True if it was placed unseen and the job has not written to it since; a directory may hold what the job put there."""
        return change.verb is Verb.PUT and with_bytes(self._client, item, change.sha256) is not None

    def _remove(self, item: Item) -> None:
        spare(self._context, item.id)
        with contextlib.suppress(NotFoundError):
            self._client.delete(item.id, once=True)
        forget(self._context, item)

    # -- hidden items that no record explains (R4)

    def expose_orphans(self) -> None:
        """Show every hidden item of this mount that no record explains, as of the last listing. Raises ApiError."""
        for item in self._context.namespace.hidden():
            parts = names.parse_hidden(names.basename(item.path))
            if parts is not None and parts.mount == self._context.mount:
                self.expose(item)

    def expose(self, item: Item, *, anyway: bool = False) -> str:
        """Look at a hidden item again and give it a name; returns what was done, "" if nothing had to be. Raises ApiError.

        `anyway`: though a record explains it (that of a mount which is gone for good).
        """
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None or (not anyway and explained(self._context, item)):
            return ""
        try:
            item = self._client.get(item.id)
        except NotFoundError:
            forget(self._context, item)
            return ""
        if names.basename(item.path) != str(parts) or (not anyway and explained(self._context, item)):
            return ""
        if parts.role is names.Role.STAGED and self._state.journal.tombstone(parts.transaction):
            self._client.delete(item.id, once=True)
            forget(self._context, item)
            return ""
        return self._show(item, parts)

    def _show(self, item: Item, parts: names.HiddenName) -> str:
        target = names.join(names.parent(item.path), parts.name)
        if parts.role is not names.Role.STAGED and not self._client.find(target):
            try:
                self._context.namespace.publish(self._client.update(item.id, path=target))
            except PathExistsError:
                pass
            else:
                log.warning("%s: found under a hidden name, put back", target)
                return f"{target}: put back"
        label = "recovered" if parts.role is names.Role.STAGED else "conflict"
        if not self.check.keep(Aside(item.id, item.path), item, target, label, _FOUND):
            return ""
        return f"{target}: kept beside it, with .{label}- in its name"

    def forget_vanished(self) -> None:
        """Forget what is remembered of items that the last listing does not have any more. Raises FsError."""
        gone = [file for file in self._state.forgettable() if not self._context.namespace.knows(file.item_id)]
        if gone:
            self._state.drop(*gone)

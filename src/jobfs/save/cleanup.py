"""Cleanup: looks at asides, takes back cancelled Changes, and shows hidden items that no record explains (R4, R7, R10).

Nobody waits for any of this: work that is not done stays in the journal, and the next mount goes on with it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator

from jobfs import names
from jobfs.content import Content, StaleVersionError
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    ItemChangedError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
)
from jobfs.namespace.tree import shown
from jobfs.nodes import Item, Kind
from jobfs.save.bases import Bases
from jobfs.save.context import Context, Look, sha256_of, with_bytes
from jobfs.save.upload import Upload
from jobfs.state import Change, edit
from jobfs.state.records import Aside, Base, Stage, Verb

log = logging.getLogger("jobfs.save")

#: Most names that are tried for a second version.
_NAMES = 50
#: Seconds until another look at an aside that waits for something else.
_AGAIN = 0.5
#: Seconds between listings that show whether removed directories are still empty.
_LIST_EVERY = 2.0


class Cleanup:
    """Ends Changes, and decides over their asides. May be called from any thread, by one at a time for each Change."""

    def __init__(self, context: Context, upload: Upload, bases: Bases) -> None:
        self._context = context
        self._bases = bases
        self._client = context.client
        self._state = context.state
        self._upload = upload
        #: When the next listing may be read for removed directories, in monotonic seconds.
        self._list_at = 0.0

    def finish(self, change: Change) -> float:
        """Take a Change that is over to its end; returns 0.0, or when to come back (monotonic s). Raises ApiError, FsError."""
        if change.verb is Verb.REMOVE and not self._listed_since(change.since):
            return time.monotonic() + _AGAIN
        # `placed` is on the disk before local bytes go and before the first delete (R3).
        self._state.store.sync()
        if change.unfinished:
            self._take_back(change)
        self._judge(change, back=change.gives_back)
        if change.asides:
            later = min(aside.unsure_until for aside in change.asides)
            return max(later, time.monotonic() + _AGAIN)
        for taken in change.taken:
            self._context.content.drop(taken.version)
        self._state.end(change)
        return 0.0

    def _judge(self, change: Change, *, back: bool) -> None:
        """Decide over the asides of a change, and drop those with which nothing is left to do. Raises ApiError, FsError.

        `back`: those that are kept go back to the target, if it is free.
        """
        for aside in reversed(change.asides):
            if self.decide(aside, change, back=back):
                self._bases.settled(aside)
                with self._state.lock:
                    self._state.apply(change, asides=[other for other in change.asides if other is not aside])
                    if change.asides:
                        self._state.write(edit(change))
            elif back:
                return  # the newest aside has the name (R11)

    def decide(self, aside: Aside, change: Change, *, back: bool) -> bool:
        """Delete what a change has set aside, keep it, or give it `back`; True when nothing is left to do, else call it again."""
        if aside.unsure_until > time.monotonic():
            return False
        # First, and the look after it: while bytes are fetched, the job may write to the item.
        spare(self._context, aside.id)
        judged = _is_judged(aside, change)
        try:
            # Read before the look: that shows that the bytes are of this version (R1), and that the name is still ours (R7).
            digest = self._digest(aside, change) if judged else ""
            look = self._look_at(aside.id)
        except NotFoundError:
            return True
        item = look.item
        if not aside.is_at(item):
            # Someone gave it another name: it is theirs now. Or this mount did so, and was killed.
            self._bases.named(aside.path, item.path)
            return True
        if judged and (item.updated_at, item.size) != (aside.updated_at, aside.size):
            aside.seen(item)
            return False  # touched meanwhile: its bytes are read again
        ours = judged and bool(digest or change.base.proves(item))
        return self._carry_out(aside, change, look, ours=ours, back=back)

    def _carry_out(self, aside: Aside, change: Change, look: Look, *, ours: bool, back: bool) -> bool:
        """Delete an item whose bytes are `ours` to replace, else keep it or give it `back`. As `decide`."""
        if change.verb is Verb.REMOVE:
            return self._delete_empty(aside, look, change)
        # An item that a late request may have brought here belongs to another path.
        if ours and not self._context.is_elsewhere(look.item.id, change.target):
            return self._delete(aside, look)
        if not back:
            self._bases.keep(aside, change.base)
        return self.keep(aside, look, change.target, back=back)

    def _look_at(self, item_id: str) -> Look:
        """The item as it is now, to decide over this version of it. Raises NotFoundError, ApiError."""
        item = self._client.get(item_id)
        return Look(item, time.monotonic(), exact=True)

    def _digest(self, aside: Aside, change: Change) -> str:
        """The hash of an item's bytes if they are the base's, or those that the change sends (R1); else "". Raises ApiError."""
        base, known = change.base, {change.base.sha256, change.sha256} - {""}
        if not known or base.resized(aside) or base.proves(aside):
            return ""
        digest = sha256_of(self._client, aside.id, aside.size)
        return digest if digest in known else ""

    def _delete(self, aside: Aside, look: Look) -> bool:
        """Delete an item that was just looked at; False if it has to be looked at again (R7)."""
        try:
            self._remove(look)
        except (AnswerLostError, ItemChangedError):
            aside.unsure_until = self._context.unsure_until(aside.id)
            return False
        return True

    def _remove(self, look: Look) -> None:
        with contextlib.suppress(NotFoundError):
            self._context.delete(look)
        forget(self._context, look.item)

    def _listed_since(self, moment: float) -> bool:
        """True if a listing has begun after `moment` (monotonic seconds); reads one if it is due. Raises ApiError."""
        namespace = self._context.namespace
        with self._state.lock:
            if namespace.listed_since(moment) or time.monotonic() < self._list_at:
                return namespace.listed_since(moment)
            self._list_at = math.inf
        try:
            namespace.refresh()
        finally:
            self._list_at = time.monotonic() + _LIST_EVERY
        return True

    def _delete_empty(self, aside: Aside, look: Look, change: Change) -> bool:
        """Delete a removed directory that a later listing shows empty; else give it back its name."""
        known = self._context.namespace.known(look.item.id)
        if known is None or not aside.moved:
            # It was forgotten together with a directory above it; or the job may have reached it until now, since an answer
            # was lost. Another listing has to tell.
            aside.seen(look.item)
            change.since = time.monotonic()
            return False
        inside = self._inside(known.path)
        if not all(map(self._leaves, inside)):
            return self.keep(aside, look, change.target, back=True)
        # Hidden items of saves in it are looked at first. Directories that were removed before go with it.
        roles = {parts.role for other in inside if (parts := names.parse_hidden(names.basename(other.path)))}
        return roles <= {names.Role.REMOVED} and self._delete(aside, look)

    def holds(self, directory: str) -> bool:
        """True if the last listing shows something in a directory that stays there. Raises ApiError."""
        return not all(map(self._leaves, self._inside(directory)))

    def _inside(self, directory: str) -> list[Item]:
        return [item for item in self._context.namespace.subtree(directory) if item.path != directory]

    def _leaves(self, item: Item) -> bool:
        """True for a hidden item that a record of this mount, or a later listing, will delete or name (R4), or that is gone."""
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None:
            return False
        left = parts.role is names.Role.STAGED and self._state.journal.tombstone(parts.transaction)
        if parts.mount == self._context.mount and (left or explained(self._context, item)):
            return True
        try:
            self._client.get(item.id)  # since it was listed, it may be gone, and its record with it
        except NotFoundError:
            forget(self._context, item)
            return True
        return False

    def keep(
        self, aside: Aside, look: Look, target: str, label: str = "conflict", *, back: bool = False
    ) -> bool:
        """Show the item as `name.<label>-<time>.ext` beside the target; `back`: as the target, if that is free. As `decide`."""
        item, where = look.item, _place_of(look.item, target)
        for path in _names_for(target, where, label, back=back):
            try:
                answer = self._context.update(look, path=path)
            except PathExistsError:
                continue
            except NoDirectoryError:
                if names.parent(path) == names.parent(where):
                    raise
                continue  # the target's directory is gone, and the item is in another one: try there
            except NotFoundError:
                return True
            except ItemChangedError:
                return False
            except AnswerLostError:
                aside.unsure_until = self._context.unsure_until(aside.id)
                answer = self._client.get(item.id)
                if aside.is_at(answer):
                    return False
            self._publish(item, answer, kept=answer.path not in (target, where))
            log.warning("%s: another version of it is kept as %s", target, answer.path)
            return True
        return False

    def _publish(self, item: Item, answer: Item, *, kept: bool) -> None:
        """Show an item that had a hidden name under the name that it has in `answer`; `kept`: as a second version."""
        self._context.renamed(item.id, answer.path)
        self._context.namespace.publish(answer, item.path, kept=kept)
        self._bases.named(item.path, answer.path)
        self._context.touch_directory(names.parent(answer.path))

    def undo(self, change: Change, reason: str, code: int) -> None:
        """Nothing can be placed: asides go back, the newest first, so that it has the name (R11); no content is deleted.

        A File keeps its bytes, refused for this reason, unless newer ones wait in it. What can't be given back now is tried
        again later. Raises FsError(EIO).
        """
        file = change.file
        with self._state.lock:
            if change.stage is not Stage.CANCELLED:  # else its file was unlinked meanwhile
                # Without a base, asides go back. What may have been placed unseen stays.
                self._state.cancel(change, ino=0, base=Base(), sha256="", direct=False, shows={})
            if file is not None and file.generation == change.generation and change.verb is not Verb.MOVE:
                self._state.write(edit(file, refused=reason, refused_errno=code))
        with contextlib.suppress(ApiError):
            self.finish(change)

    def _take_back(self, change: Change) -> None:
        """Take back a save whose file was unlinked (R10). Raises ApiError."""
        if change.verb is Verb.PUT and change.base.id:
            self._give_back(change)
        if change.verb in (Verb.PUT, Verb.MKDIR):
            self.remove_staged(change)
        if change.direct and (own := self._upload.find_direct(change)) is not None:
            self._remove(Look(own, time.monotonic(), exact=True))
        if change.verb is Verb.PUT and change.base.id:
            self._remove_base(change)
        self._forget_taken(change)
        self._context.keep_parent(change.target)
        # From here on the name is free for the next Change; the asides of a directory or a rename have to be back first.
        stage = change.stage if change.gives_back else Stage.PLACED
        self._state.write(edit(change, stage=stage, shows={}, tid="", staged_id="", direct=False))

    def _forget_taken(self, change: Change) -> None:
        """What is still set aside stands at the target no longer; what was given back does, and what was deleted is forgotten."""
        asides = {aside.id for aside in change.asides}
        for taken in change.taken:
            if taken.id in asides:
                self._context.namespace.forget(taken)

    def _remove_base(self, change: Change) -> None:
        """Delete the item at the target if it still is the version that the user has unlinked. Raises ApiError."""
        spare(self._context, change.base.id)
        there, answered = shown(self._client.find(change.target)), time.monotonic()
        if there is not None and is_base(self._context, there, change.base):
            self._remove(Look(there, answered, exact=True))

    def _give_back(self, change: Change) -> None:
        """Judge the asides of a cancelled save whose item was not placed: what is foreign goes back to the target (R10).

        The job may have written it after the unlink. What can't be given back is kept beside. Raises ApiError, FsError.
        """
        if not (change.asides and change.staged_id):
            return
        with contextlib.suppress(NotFoundError, *REFUSALS):
            if change.is_staged(self._client.get(change.staged_id)):
                self._judge(change, back=True)

    def remove_staged(self, change: Change) -> None:
        """Delete what it has staged (R10). Raises ApiError."""
        spare(self._context, change.staged_id)
        for look in self._staged(change):
            self._remove(look)

    def _staged(self, change: Change) -> list[Look]:
        """The item that it staged: at its hidden name; or placed unseen, and neither written to nor renamed by the job since."""
        if not change.staged_id:
            found = self._client.find(change.hidden(self._context.mount)) if change.tid else []
            return [Look(item, time.monotonic(), exact=True) for item in found]
        with contextlib.suppress(NotFoundError):
            look = self._look_at(change.staged_id)
            # A directory may hold what the job put there.
            own = change.is_staged(look.item)
            placed = look.item.path == change.target and change.sha256
            if own or (placed and with_bytes(self._client, look.item, change.sha256)):
                return [look]
        return []

    # -- hidden items that no record explains (R4)

    def expose_orphans(self) -> None:
        """Show every hidden item of this mount that no record explains, as of the last listing. Raises ApiError."""
        for item in self._context.namespace.hidden():
            parts = names.parse_hidden(names.basename(item.path))
            if parts is not None and parts.mount == self._context.mount:
                try:
                    self.expose(item)
                except REFUSALS as error:
                    log.info("%s can't be shown: %s", item.path, error)  # the next listing is another try

    def expose(self, item: Item, *, anyway: bool = False) -> str:
        """Look at a hidden item again and give it a name, `anyway`: even if a record explains it. Raises ApiError.

        Returns a sentence on that, "" if nothing was to do.
        """
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None or (not anyway and explained(self._context, item)):
            return ""
        try:
            look = self._look_at(item.id)
        except NotFoundError:
            forget(self._context, item)
            return ""
        if names.basename(look.item.path) != str(parts) or (
            not anyway and explained(self._context, look.item)
        ):
            return ""
        return self._expose(look, parts)

    def _expose(self, look: Look, parts: names.HiddenName) -> str:
        """Delete a hidden item that a late create has made, give any other a name. As `expose`."""
        item = look.item
        staged = parts.role is names.Role.STAGED
        if staged and self._state.journal.tombstone(parts.transaction):
            self._remove(look)
            return ""
        label, target = "recovered" if staged else "conflict", names.join(names.parent(item.path), parts.name)
        if self.keep(Aside(item.id, item.path), look, target, label, back=not staged):
            return f"{target}: shown again, under this name or with .{label}- in it"
        return ""

    def forget_vanished(self) -> None:
        """Forget what is remembered of items that are no longer in the last listing. Raises FsError."""
        self._bases.forget_vanished()
        known = self._context.namespace.known
        self._state.drop(*(f for f in self._state.index.files() if f.unneeded and known(f.item_id) is None))


def _is_judged(aside: Aside, change: Change) -> bool:
    """True if the bytes of an aside decide what becomes of it (R1)."""
    replaced = change.verb is Verb.PUT or (change.verb is Verb.MOVE and not change.gives_back)
    return replaced and aside.kind is Kind.FILE


def _place_of(item: Item, target: str) -> str:
    """The path of the target's name in the directory where its aside is: that may have another name since.

    The aside of a removed directory that is at the top may come from elsewhere (`ItemRequests.remove_directory`).
    """
    above = names.parent(item.path)
    return names.join(above, names.basename(target)) if above else target


def _names_for(target: str, where: str, label: str, *, back: bool) -> Iterator[str]:
    """The paths to try for a second version; `back`: those of the first version before them."""
    if back:
        yield from dict.fromkeys((target, where))
    for attempt in range(_NAMES):
        yield names.beside(where, label, attempt=attempt)


def explained(context: Context, item: Item) -> bool:
    """True if a Change of this mount knows this hidden item."""
    parts = names.parse_hidden(names.basename(item.path))
    with context.state.lock:
        return any(
            item.id in (change.staged_id, *(aside.id for aside in change.asides))
            or (parts is not None and parts.transaction == change.tid)
            for change in context.state.changes.values()
        )


def spare(context: Context, item_id: str) -> None:
    """Fetch an item's bytes for its open handles, before a look that may end in its deletion. Raises ApiError, FsError."""
    for file in list(context.state.opened.values()):
        for handle in list(file.handles):
            content = handle.content
            if handle.item is not None and handle.item.id == item_id and isinstance(content, Content):
                # The version is gone: bytes of it that are not on this machine can't be had any more.
                with contextlib.suppress(StaleVersionError, NotFoundError):
                    content.fetch()


def is_base(context: Context, item: Item, base: Base) -> bool:
    """True if the item still is the version that a save was to replace, the one that the user saw. Raises ApiError."""
    if item.id != base.id:
        return False
    if base.is_version(item) and not (base.young and base.sha256):
        return True
    # An item that was placed here, or was moved with its directory, is told by its bytes (R2).
    return bool(base.sha256) and with_bytes(context.client, item, base.sha256) is not None


def forget(context: Context, item: Item) -> None:
    """The item is gone from the server."""
    context.namespace.forget(item)
    context.state.lose(item.id)

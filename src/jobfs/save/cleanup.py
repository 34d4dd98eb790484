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
from jobfs.content import ContentHandle, StaleVersionError
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    ItemChangedError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
)
from jobfs.namespace.tree import pick_shown
from jobfs.nodes import Item, Kind
from jobfs.save.bases import BaseKeeper
from jobfs.save.context import Context, Observation, fetch_sha256, item_if_bytes_match
from jobfs.save.upload import Uploader
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

    def __init__(self, context: Context, uploader: Uploader, bases: BaseKeeper) -> None:
        self._context = context
        self._bases = bases
        self._client = context.client
        self._state = context.state
        self._upload = uploader
        #: When the next listing may be read for removed directories, in monotonic seconds.
        self._list_at = 0.0

    def clean_up(self, change: Change) -> float:
        """Take a Change that is over to its end; returns 0.0, or when to come back (monotonic s). Raises ApiError, FsError."""
        if change.verb is Verb.REMOVE and not self._has_listing_since(change.finished_at):
            return time.monotonic() + _AGAIN
        # `placed` is on the disk before local bytes go and before the first delete (R3).
        self._state.store.sync()
        if change.needs_undo:
            self._undo_unlinked_save(change)
        self._decide_asides(change, back=change.restores_asides)
        if change.asides:
            later = min(aside.unsure_until for aside in change.asides)
            return max(later, time.monotonic() + _AGAIN)
        for taken in change.displaced:
            self._context.content.drop_replaced(taken.version)
        self._state.end_change(change)
        return 0.0

    def _decide_asides(self, change: Change, *, back: bool) -> None:
        """Decide over the asides of a change, and drop those with which nothing is left to do. Raises ApiError, FsError.

        `back`: those that are kept go back to the target, if it is free.
        """
        for aside in reversed(change.asides):
            if self.decide_aside(aside, change, back=back):
                self._bases.drop_settled(aside)
                with self._state.lock:
                    self._state.apply_in_memory(
                        change, asides=[other for other in change.asides if other is not aside]
                    )
                    if change.asides:
                        self._state.write(edit(change))
            elif back:
                return  # the newest aside has the name (R11)

    def decide_aside(self, aside: Aside, change: Change, *, back: bool) -> bool:
        """Delete what a change has set aside, keep it, or give it `back`; True when nothing is left to do, else call it again."""
        if aside.unsure_until > time.monotonic():
            return False
        # First, and the look after it: while bytes are fetched, the job may write to the item.
        fetch_for_handles(self._context, aside.id)
        judged = _is_decided_by_bytes(aside, change)
        try:
            # Read before the look: that shows that the bytes are of this version (R1), and that the name is still ours (R7).
            digest = self._matching_digest(aside, change) if judged else ""
            look = self._observe(aside.id)
        except NotFoundError:
            return True
        item = look.item
        if not aside.is_hidden_name_of(item):
            # Someone gave it another name: it is theirs now. Or this mount did so, and was killed.
            self._bases.rename_base(aside.path, item.path)
            return True
        if judged and (item.updated_at, item.size) != (aside.updated_at, aside.size):
            aside.mark_moved(item)
            return False  # touched meanwhile: its bytes are read again
        ours = judged and bool(digest or change.base.proves_unchanged(item))
        return self._delete_or_keep(aside, change, look, is_replaced_version=ours, back=back)

    def _delete_or_keep(
        self, aside: Aside, change: Change, look: Observation, *, is_replaced_version: bool, back: bool
    ) -> bool:
        """Delete an item whose bytes are `is_replaced_version` to replace, else keep it or give it `back`. As `decide_aside`."""
        if change.verb is Verb.REMOVE:
            return self._delete_if_empty(aside, look, change)
        # An item that a late request may have brought here belongs to another path.
        if is_replaced_version and not self._context.was_renamed_here(look.item.id, change.target):
            return self._delete_if_unchanged(aside, look)
        if not back:
            self._bases.keep_base(aside, change.base)
        return self.keep_second_version(aside, look, change.target, to_target=back)

    def _observe(self, item_id: str) -> Observation:
        """The item as it is now, to decide over this version of it. Raises NotFoundError, ApiError."""
        item = self._client.get(item_id)
        return Observation(item, time.monotonic(), is_exact=True)

    def _matching_digest(self, aside: Aside, change: Change) -> str:
        """The hash of an item's bytes if they are the base's, or those that the change sends (R1); else "". Raises ApiError."""
        base, known = change.base, {change.base.sha256, change.sha256} - {""}
        if not known or base.has_other_size(aside) or base.proves_unchanged(aside):
            return ""
        digest = fetch_sha256(self._client, aside.id, aside.size)
        return digest if digest in known else ""

    def _delete_if_unchanged(self, aside: Aside, look: Observation) -> bool:
        """Delete an item that was just looked at; False if it has to be looked at again (R7)."""
        try:
            self._delete_observed(look)
        except (AnswerLostError, ItemChangedError):
            aside.unsure_until = self._context.unsure_until(aside.id)
            return False
        return True

    def _delete_observed(self, look: Observation) -> None:
        with contextlib.suppress(NotFoundError):
            self._context.delete_item(look)
        forget_item(self._context, look.item)

    def _has_listing_since(self, moment: float) -> bool:
        """True if a listing has begun after `moment` (monotonic seconds); reads one if it is due. Raises ApiError."""
        namespace = self._context.namespace
        with self._state.lock:
            if namespace.is_listed_since(moment) or time.monotonic() < self._list_at:
                return namespace.is_listed_since(moment)
            self._list_at = math.inf
        try:
            namespace.refresh()
        finally:
            self._list_at = time.monotonic() + _LIST_EVERY
        return True

    def _delete_if_empty(self, aside: Aside, look: Observation, change: Change) -> bool:
        """Delete a removed directory that a later listing shows empty; else give it back its name."""
        known = self._context.namespace.peek_by_id(look.item.id)
        if known is None or not aside.moved:
            # It was forgotten together with a directory above it; or the job may have reached it until now, since an answer
            # was lost. Another listing has to tell.
            aside.mark_moved(look.item)
            change.finished_at = time.monotonic()
            return False
        inside = self._items_below(known.path)
        if not all(map(self._will_disappear, inside)):
            return self.keep_second_version(aside, look, change.target, to_target=True)
        # Hidden items of saves in it are looked at first. Directories that were removed before go with it.
        roles = {
            parts.role for other in inside if (parts := names.parse_hidden_name(names.basename(other.path)))
        }
        return roles <= {names.Role.REMOVED} and self._delete_if_unchanged(aside, look)

    def has_children(self, directory: str) -> bool:
        """True if the last listing shows something in a directory that stays there. Raises ApiError."""
        return not all(map(self._will_disappear, self._items_below(directory)))

    def _items_below(self, directory: str) -> list[Item]:
        return [item for item in self._context.namespace.subtree(directory) if item.path != directory]

    def _will_disappear(self, item: Item) -> bool:
        """True for a hidden item that a record of this mount, or a later listing, will delete or name (R4), or that is gone."""
        parts = names.parse_hidden_name(names.basename(item.path))
        if parts is None:
            return False
        left = parts.role is names.Role.STAGED and self._state.journal.has_tombstone(parts.transaction)
        if parts.mount == self._context.mount and (left or is_explained(self._context, item)):
            return True
        try:
            self._client.get(item.id)  # since it was listed, it may be gone, and its record with it
        except NotFoundError:
            forget_item(self._context, item)
            return True
        return False

    def keep_second_version(
        self,
        aside: Aside,
        look: Observation,
        target: str,
        label: str = "conflict",
        *,
        to_target: bool = False,
    ) -> bool:
        """Show the item as `name.<label>-<time>.ext` beside the target; `to_target`: as the target, if that is free. As
        `decide_aside`.
        """
        item, where = look.item, _current_target(look.item, target)
        for path in _candidate_paths(target, where, label, to_target=to_target):
            try:
                answer = self._context.update_item(look, path=path)
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
                if aside.is_hidden_name_of(answer):
                    return False
            self._record_shown(item, answer, kept=answer.path not in (target, where))
            log.warning("%s: another version of it is kept as %s", target, answer.path)
            return True
        return False

    def _record_shown(self, item: Item, answer: Item, *, kept: bool) -> None:
        """Show an item that had a hidden name under the name that it has in `answer`; `kept`: as a second version."""
        self._context.note_rename(item.id, answer.path)
        self._context.namespace.record_own_change(answer, item.path, is_second_version=kept)
        self._bases.rename_base(item.path, answer.path)
        self._context.note_names_changed(names.parent(answer.path))

    def undo_change(self, change: Change, reason: str, code: int) -> None:
        """Nothing can be placed: asides go back, the newest first, so that it has the name (R11); no content is deleted.

        A File keeps its bytes, refused for this reason, unless newer ones wait in it. What can't be given back now is tried
        again later. Raises FsError(EIO).
        """
        file = change.file
        with self._state.lock:
            if change.stage is not Stage.CANCELLED:  # else its file was unlinked meanwhile
                # Without a base, asides go back. What may have been placed unseen stays.
                self._state.cancel_change(change, ino=0, base=Base(), sha256="", direct=False, shows={})
            if file is not None and file.generation == change.generation and change.verb is not Verb.MOVE:
                self._state.write(edit(file, refused=reason, refused_errno=code))
        with contextlib.suppress(ApiError):
            self.clean_up(change)

    def _undo_unlinked_save(self, change: Change) -> None:
        """Take back a save whose file was unlinked (R10). Raises ApiError."""
        if change.verb is Verb.PUT and change.base.id:
            self._restore_asides(change)
        if change.verb in (Verb.PUT, Verb.MKDIR):
            self.remove_staged(change)
        if change.direct and (own := self._upload.find_created_directly(change)) is not None:
            self._delete_observed(Observation(own, time.monotonic(), is_exact=True))
        if change.verb is Verb.PUT and change.base.id:
            self._delete_base(change)
        self._record_asides(change)
        self._context.keep_implicit_parent(change.target)
        # From here on the name is free for the next Change; the asides of a directory or a rename have to be back first.
        stage = change.stage if change.restores_asides else Stage.PLACED
        self._state.write(edit(change, stage=stage, shows={}, tid="", staged_id="", direct=False))

    def _record_asides(self, change: Change) -> None:
        """What is still set aside stands at the target no longer; what was given back does, and what was deleted is forgotten."""
        asides = {aside.id for aside in change.asides}
        for taken in change.displaced:
            if taken.id in asides:
                self._context.namespace.record_deleted(taken)

    def _delete_base(self, change: Change) -> None:
        """Delete the item at the target if it still is the version that the user has unlinked. Raises ApiError."""
        fetch_for_handles(self._context, change.base.id)
        there, answered = pick_shown(self._client.find(change.target)), time.monotonic()
        if there is not None and is_base(self._context, there, change.base):
            self._delete_observed(Observation(there, answered, is_exact=True))

    def _restore_asides(self, change: Change) -> None:
        """Judge the asides of a cancelled save whose item was not placed: what is foreign goes back to the target (R10).

        The job may have written it after the unlink. What can't be given back is kept beside. Raises ApiError, FsError.
        """
        if not (change.asides and change.staged_id):
            return
        with contextlib.suppress(NotFoundError, *REFUSALS):
            if change.is_staged_item(self._client.get(change.staged_id)):
                self._decide_asides(change, back=True)

    def remove_staged(self, change: Change) -> None:
        """Delete what it has staged (R10). Raises ApiError."""
        fetch_for_handles(self._context, change.staged_id)
        for look in self._find_staged(change):
            self._delete_observed(look)

    def _find_staged(self, change: Change) -> list[Observation]:
        """The item that it staged: at its hidden name; or placed unseen, and neither written to nor renamed by the job since."""
        if not change.staged_id:
            found = self._client.find(change.hidden_path(self._context.mount)) if change.tid else []
            return [Observation(item, time.monotonic(), is_exact=True) for item in found]
        with contextlib.suppress(NotFoundError):
            look = self._observe(change.staged_id)
            # A directory may hold what the job put there.
            own = change.is_staged_item(look.item)
            placed = look.item.path == change.target and change.sha256
            if own or (placed and item_if_bytes_match(self._client, look.item, change.sha256)):
                return [look]
        return []

    # -- hidden items that no record explains (R4)

    def expose_orphans(self) -> None:
        """Show every hidden item of this mount that no record explains, as of the last listing. Raises ApiError."""
        for item in self._context.namespace.hidden_items():
            parts = names.parse_hidden_name(names.basename(item.path))
            if parts is not None and parts.mount == self._context.mount:
                try:
                    self.expose(item)
                except REFUSALS as error:
                    log.info("%s can't be shown: %s", item.path, error)  # the next listing is another try

    def expose(self, item: Item, *, anyway: bool = False) -> str:
        """Look at a hidden item again and give it a name, `anyway`: even if a record explains it. Raises ApiError.

        Returns a sentence on that, "" if nothing was to do.
        """
        parts = names.parse_hidden_name(names.basename(item.path))
        if parts is None or (not anyway and is_explained(self._context, item)):
            return ""
        try:
            look = self._observe(item.id)
        except NotFoundError:
            forget_item(self._context, item)
            return ""
        if names.basename(look.item.path) != str(parts) or (
            not anyway and is_explained(self._context, look.item)
        ):
            return ""
        return self._expose(look, parts)

    def _expose(self, look: Observation, parts: names.HiddenName) -> str:
        """Delete a hidden item that a late create has made, give any other a name. As `expose`."""
        item = look.item
        staged = parts.role is names.Role.STAGED
        if staged and self._state.journal.has_tombstone(parts.transaction):
            self._delete_observed(look)
            return ""
        label, target = "recovered" if staged else "conflict", names.join(names.parent(item.path), parts.name)
        if self.keep_second_version(Aside(item.id, item.path), look, target, label, to_target=not staged):
            return f"{target}: shown again, under this name or with .{label}- in it"
        return ""

    def forget_vanished(self) -> None:
        """Forget what is remembered of items that are no longer in the last listing. Raises FsError."""
        self._bases.forget_vanished()
        known = self._context.namespace.peek_by_id
        self._state.drop_files(
            *(f for f in self._state.index.all_files() if f.has_only_attributes and known(f.item_id) is None)
        )


def _is_decided_by_bytes(aside: Aside, change: Change) -> bool:
    """True if the bytes of an aside decide what becomes of it (R1)."""
    replaced = change.verb is Verb.PUT or (change.verb is Verb.MOVE and not change.restores_asides)
    return replaced and aside.kind is Kind.FILE


def _current_target(item: Item, target: str) -> str:
    """The path of the target's name in the directory where its aside is: that may have another name since.

    The aside of a removed directory that is at the top may come from elsewhere (`ItemRequests.remove_directory`).
    """
    above = names.parent(item.path)
    return names.join(above, names.basename(target)) if above else target


def _candidate_paths(target: str, where: str, label: str, *, to_target: bool) -> Iterator[str]:
    """The paths to try for a second version; `to_target`: those of the first version before them."""
    if to_target:
        yield from dict.fromkeys((target, where))
    for attempt in range(_NAMES):
        yield names.second_version_path(where, label, attempt=attempt)


def is_explained(context: Context, item: Item) -> bool:
    """True if a Change of this mount knows this hidden item."""
    parts = names.parse_hidden_name(names.basename(item.path))
    with context.state.lock:
        return any(
            item.id in (change.staged_id, *(aside.id for aside in change.asides))
            or (parts is not None and parts.transaction == change.tid)
            for change in context.state.changes.values()
        )


def fetch_for_handles(context: Context, item_id: str) -> None:
    """Fetch an item's bytes for its open handles, before a look that may end in its deletion. Raises ApiError, FsError."""
    for file in list(context.state.opened.values()):
        for handle in list(file.handles):
            content = handle.content
            if handle.item is not None and handle.item.id == item_id and isinstance(content, ContentHandle):
                # The version is gone: bytes of it that are not on this machine can't be had any more.
                with contextlib.suppress(StaleVersionError, NotFoundError):
                    content.fetch_file()


def is_base(context: Context, item: Item, base: Base) -> bool:
    """True if the item still is the version that a save was to replace, the one that the user saw. Raises ApiError."""
    if item.id != base.id:
        return False
    if base.matches_version(item) and not (base.racy and base.sha256):
        return True
    # An item that was placed here, or was moved with its directory, is told by its bytes (R2).
    return bool(base.sha256) and item_if_bytes_match(context.client, item, base.sha256) is not None


def forget_item(context: Context, item: Item) -> None:
    """The item is gone from the server."""
    context.namespace.record_deleted(item)
    context.state.forget_item(item.id)

"""Cleanup: judges asides, undoes cancelled Changes, exposes unexplained hidden items (save/protocol.md R1, R4, R7, R10).

No program waits for cleanup: unfinished work stays in the journal, and the next mount continues it.
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
#: Least seconds until cleanup returns to a Change that it could not end.
_AGAIN = 0.5
#: Seconds between listings that are read to see whether removed directories are still empty.
_LIST_EVERY = 2.0


class Cleanup:
    """Ends finished Changes, and decides about their asides. Any thread may call it, one at a time for each Change."""

    def __init__(self, context: Context, uploader: Uploader, bases: BaseKeeper) -> None:
        self._context = context
        self._base_keeper = bases
        self._client = context.client
        self._state = context.state
        self._uploader = uploader
        #: When the next listing for removed directories may be read, in monotonic seconds; inf while one is being read.
        self._list_at = 0.0

    def clean_up(self, change: Change) -> float:
        """Clean up after a finished Change, and end it. Return 0.0, or when to call this again (monotonic seconds).

        Raises ApiError, FsError.
        """
        if change.verb is Verb.REMOVE and not self._ensure_listing_since(change.finished_at):
            return time.monotonic() + _AGAIN
        # `placed` must be on the disk before local bytes are freed and before the first delete (R3).
        self._state.store.sync()
        if change.needs_undo:
            self._undo_cancelled_change(change)
        self._decide_asides(change, restore=change.restores_asides)
        if change.asides:
            later = min(aside.unsure_until for aside in change.asides)
            return max(later, time.monotonic() + _AGAIN)
        for taken in change.displaced:
            self._context.content.drop_replaced(taken.version)
        self._state.end_change(change)
        return 0.0

    def _decide_asides(self, change: Change, *, restore: bool) -> None:
        """Decide about the asides of a Change, the newest first, and drop each one that is settled. Raises ApiError, FsError.

        `restore`: an aside that is kept goes back to the target, if that is free.
        """
        for aside in reversed(change.asides):
            if self.decide_aside(aside, change, restore=restore):
                self._base_keeper.drop_base_of_settled(aside)
                with self._state.lock:
                    self._state.apply_in_memory(
                        change, asides=[other for other in change.asides if other is not aside]
                    )
                    if change.asides:
                        self._state.write(edit(change))
            elif restore:
                return  # the newest aside gets the name (R11): the older ones wait for it

    def decide_aside(self, aside: Aside, change: Change, *, restore: bool) -> bool:
        """Delete an aside, keep it as a second version, or with `restore` move it back to the target (R1, R7).

        Return True once the aside is settled, False if this must be called again. Raises ApiError, FsError.
        """
        if aside.unsure_until > time.monotonic():
            return False
        # Before the look: the job may write to the item during the download.
        fetch_bytes_for_handles(self._context, aside.id)
        judged = _is_decided_by_bytes(aside, change)
        try:
            # Hashed before the look, which shows that the bytes are of this version (R1) and that the name is still ours (R7).
            digest = self._matching_digest(aside, change) if judged else ""
            observation = self._observe(aside.id)
        except NotFoundError:
            return True
        item = observation.item
        if not aside.is_hidden_name_of(item):
            # The job has renamed it, so it is the job's now; or this mount has, and was killed before it recorded that.
            self._base_keeper.rename_base(aside.path, item.path)
            return True
        if judged and (item.updated_at, item.size) != (aside.updated_at, aside.size):
            aside.mark_moved(item)
            return False  # the job has written to it: its bytes must be read again
        ours = judged and bool(digest or change.base.proves_unchanged(item))
        return self._delete_or_keep(aside, change, observation, is_replaced_version=ours, restore=restore)

    def _delete_or_keep(
        self,
        aside: Aside,
        change: Change,
        observation: Observation,
        *,
        is_replaced_version: bool,
        restore: bool,
    ) -> bool:
        """Delete an aside that `is_replaced_version`: the job has not changed it. Otherwise keep it, or `restore` it.

        Of a removed directory, only a listing decides. Return and raise as `decide_aside`.
        """
        if change.verb is Verb.REMOVE:
            return self._delete_if_empty(aside, observation, change)
        # An item that a late request may have moved here belongs to another path.
        if is_replaced_version and not self._context.may_be_late_move(observation.item.id, change.target):
            return self._delete_if_unchanged(aside, observation)
        if not restore:
            self._base_keeper.keep_merge_base(aside, change.base)
        return self.keep_second_version(aside, observation, change.target, to_target=restore)

    def _observe(self, item_id: str) -> Observation:
        """Get an item, for a decision about the version that it has now. Raises NotFoundError, ApiError."""
        item = self._client.get(item_id)
        return Observation(item, time.monotonic(), is_exact=True)

    def _matching_digest(self, aside: Aside, change: Change) -> str:
        """Return the hash of an aside's bytes if they are those of the base, or those that the Change sends (R1); else "".

        Also "" without a download where size or timestamp decide, or no hash is known. Raises ApiError.
        """
        base, known = change.base, {change.base.sha256, change.sha256} - {""}
        if not known or base.has_other_size(aside) or base.proves_unchanged(aside):
            return ""
        digest = fetch_sha256(self._client, aside.id, aside.size)
        return digest if digest in known else ""

    def _delete_if_unchanged(self, aside: Aside, observation: Observation) -> bool:
        """Delete an aside that was just looked at; return False if it must be looked at again. Raises ApiError.

        After AnswerLostError, too, the next call looks again, but not before that request can no longer be carried out (R7).
        """
        try:
            self._delete_observed(observation)
        except ItemChangedError:
            return False
        except AnswerLostError:
            aside.unsure_until = self._context.unsure_until(aside.id)
            raise
        return True

    def _delete_observed(self, observation: Observation) -> None:
        """Delete an observed item on the server, or accept that it is gone, and forget it in the namespace. Raises ApiError."""
        with contextlib.suppress(NotFoundError):
            self._context.delete_item(observation)
        forget_item(self._context, observation.item)

    def _ensure_listing_since(self, moment: float) -> bool:
        """Return whether a listing has begun after `moment` (monotonic seconds); read one if that is due. Raises ApiError."""
        namespace = self._context.namespace
        with self._state.lock:
            if namespace.has_listing_since(moment) or time.monotonic() < self._list_at:
                return namespace.has_listing_since(moment)
            self._list_at = math.inf
        try:
            namespace.refresh()
        finally:
            self._list_at = time.monotonic() + _LIST_EVERY
        return True

    def _delete_if_empty(self, aside: Aside, observation: Observation, change: Change) -> bool:
        """Delete a removed directory if a listing read after its move shows it empty; otherwise give it its name back (R12)."""
        known = self._context.namespace.peek_by_id(observation.item.id)
        if known is None or not aside.moved:
            # It was forgotten with a directory above it; or the answer to its move was lost, and the job may have reached it
            # until now. Either way another listing must show whether it is empty.
            aside.mark_moved(observation.item)
            change.finished_at = time.monotonic()
            return False
        inside = self._items_below(known.path)
        if not all(map(self._confirm_disappears, inside)):
            return self.keep_second_version(aside, observation, change.target, to_target=True)
        # Asides and staged items in it must be settled first. Removed directories in it are deleted with it.
        roles = {
            parts.role for item in inside if (parts := names.parse_hidden_name(names.basename(item.path)))
        }
        return roles <= {names.Role.REMOVED} and self._delete_if_unchanged(aside, observation)

    def has_lasting_children(self, directory: str) -> bool:
        """Return whether the last listing shows an item in a directory that will not disappear. Raises ApiError."""
        return not all(map(self._confirm_disappears, self._items_below(directory)))

    def _items_below(self, directory: str) -> list[Item]:
        return [item for item in self._context.namespace.subtree(directory) if item.path != directory]

    def _confirm_disappears(self, item: Item) -> bool:
        """Return whether a listed item does not keep its directory from being removed (R4, R12). Raises ApiError.

        So it is for a hidden item of this mount that a Change or cleanup will delete or rename, and for one that is gone.
        """
        parts = names.parse_hidden_name(names.basename(item.path))
        if parts is None:
            return False
        is_leftover = parts.role is names.Role.STAGED and self._state.journal.has_tombstone(parts.transaction)
        if parts.mount == self._context.mount and (is_leftover or self._state.changes.explains(item)):
            return True
        try:
            self._client.get(item.id)  # it may have been deleted since the listing, and its record with it
        except NotFoundError:
            forget_item(self._context, item)
            return True
        return False

    def keep_second_version(
        self,
        aside: Aside,
        observation: Observation,
        target: str,
        label: str = "conflict",
        *,
        to_target: bool = False,
    ) -> bool:
        """Rename an aside to `name.<label>-<time>.ext` beside the target; `to_target`: to the target itself, if that is free.

        Return and raise as `decide_aside`.
        """
        item, where = observation.item, _target_beside(observation.item, target)
        for path in _candidate_paths(target, where, label, to_target=to_target):
            try:
                reply = self._context.update_item(observation, path=path)
            except PathExistsError:
                continue
            except NoDirectoryError:
                if names.parent(path) == names.parent(where):
                    raise
                continue  # the target's directory is gone, and the item is in another directory: try that one
            except NotFoundError:
                return True
            except ItemChangedError:
                return False
            except AnswerLostError:
                aside.unsure_until = self._context.unsure_until(aside.id)
                reply = self._client.get(item.id)
                if aside.is_hidden_name_of(reply):
                    return False
            self._record_exposed(item, reply, is_second_version=reply.path not in (target, where))
            log.warning("%s: another version of it is kept as %s", target, reply.path)
            return True
        return False

    def _record_exposed(self, item: Item, reply: Item, *, is_second_version: bool) -> None:
        """Show an item that had a hidden name under its new name. `reply`: that of the move. `is_second_version`: it is kept."""
        self._context.note_rename(item.id, reply.path)
        self._context.namespace.record_own_change(reply, item.path, is_reported=is_second_version)
        self._base_keeper.rename_base(item.path, reply.path)
        self._context.touch_directory(names.parent(reply.path))

    def undo_refused_change(self, change: Change, reason: str, code: int) -> None:
        """Undo a Change that can't be placed: its asides go back, the newest first (R11), and no content is deleted.

        The File keeps its bytes, marked as refused for `reason` with errno `code`, unless it has newer ones. An aside that can't
        go back now is tried again later. Raises FsError(EIO).
        """
        file = change.file
        with self._state.lock:
            if change.stage is not Stage.CANCELLED:  # otherwise its file was unlinked in between
                # Without a base, all asides go back; and an item that was placed by an unanswered request stays.
                self._state.cancel_change(change, ino=0, base=Base(), sha256="", direct=False)
            if file is not None and file.generation == change.generation and change.verb is not Verb.MOVE:
                self._state.write(edit(file, refused=reason, refused_errno=code))
        with contextlib.suppress(ApiError):
            self.clean_up(change)

    def _undo_cancelled_change(self, change: Change) -> None:
        """Undo what a cancelled Change did on the server, such as the save of an unlinked file (R10).

        Raises ApiError, FsError.
        """
        if change.verb is Verb.PUT and change.base.id:
            self._decide_asides_of_unplaced(change)
        if change.verb in (Verb.PUT, Verb.MKDIR):
            self.remove_staged(change)
        if change.direct and (own := self._uploader.find_created_directly(change)) is not None:
            self._delete_observed(Observation(own, time.monotonic(), is_exact=True))
        if change.verb is Verb.PUT and change.base.id:
            self._delete_unlinked_base(change)
        self._note_asides_gone_in_namespace(change)
        self._context.keep_implicit_parent(change.target)
        # Now the next Change may have the name, unless asides must go back to it first: those of a directory or a rename.
        stage = change.stage if change.restores_asides else Stage.PLACED
        self._state.write(edit(change, stage=stage, shows={}, tid="", staged_id="", direct=False))

    def _note_asides_gone_in_namespace(self, change: Change) -> None:
        """Record in the namespace that the remaining asides have left the target; for the others it was recorded before."""
        asides = {aside.id for aside in change.asides}
        for taken in change.displaced:
            if taken.id in asides:
                self._context.namespace.record_deleted(taken)

    def _delete_unlinked_base(self, change: Change) -> None:
        """Delete the item at the target if it still is the version that was unlinked, the base. Raises ApiError, FsError."""
        fetch_bytes_for_handles(self._context, change.base.id)
        found, answered = pick_shown(self._client.find(change.target)), time.monotonic()
        if found is not None and confirm_is_base(self._context, found, change.base):
            self._delete_observed(Observation(found, answered, is_exact=True))

    def _decide_asides_of_unplaced(self, change: Change) -> None:
        """Judge the asides of a cancelled save whose item was not placed; foreign ones go back to the target (R10).

        The job may have written these after the unlink. If the target is taken, they are kept beside it. Raises ApiError,
        FsError.
        """
        if not (change.asides and change.staged_id):
            return
        with contextlib.suppress(NotFoundError, *REFUSALS):
            if change.is_staged_item(self._client.get(change.staged_id)):
                self._decide_asides(change, restore=True)

    def remove_staged(self, change: Change) -> None:
        """Delete the staged item of a Change (R10). Raises ApiError, FsError."""
        fetch_bytes_for_handles(self._context, change.staged_id)
        for observation in self._find_staged(change):
            self._delete_observed(observation)

    def _find_staged(self, change: Change) -> list[Observation]:
        """Look for the staged item of a Change, and return it if it may be deleted. Raises ApiError.

        It may be if it has its hidden name; or if an unanswered promote has placed it, and the job has not touched it since.
        """
        if not change.staged_id:
            found = self._client.find(change.hidden_path(self._context.mount)) if change.tid else []
            return [Observation(item, time.monotonic(), is_exact=True) for item in found]
        with contextlib.suppress(NotFoundError):
            observation = self._observe(change.staged_id)
            # A placed directory is never deleted: it may hold files of the job.
            own = change.is_staged_item(observation.item)
            placed = observation.item.path == change.target and change.sha256
            if own or (placed and item_if_bytes_match(self._client, observation.item, change.sha256)):
                return [observation]
        return []

    # -- hidden items that no record explains (R4)

    def expose_orphans(self) -> None:
        """Expose every hidden item of this mount in the last listing that no record explains. Raises ApiError, FsError."""
        for item in self._context.namespace.hidden_items():
            parts = names.parse_hidden_name(names.basename(item.path))
            if parts is not None and parts.mount == self._context.mount:
                try:
                    self.expose(item)
                except REFUSALS as error:
                    log.info("%s can't be shown: %s", item.path, error)  # tried again after the next listing

    def expose(self, item: Item, *, even_if_explained: bool = False) -> str:
        """Look at a hidden item again, and give it a visible name if no record explains it; `even_if_explained`: even then.

        Return a sentence about what was done, "" if the item was not shown. Raises ApiError, FsError.
        """
        parts = names.parse_hidden_name(names.basename(item.path))
        if parts is None or (not even_if_explained and self._state.changes.explains(item)):
            return ""
        try:
            observation = self._observe(item.id)
        except NotFoundError:
            forget_item(self._context, item)
            return ""
        if names.basename(observation.item.path) != str(parts) or (
            not even_if_explained and self._state.changes.explains(observation.item)
        ):
            return ""
        return self._expose(observation, parts)

    def _expose(self, observation: Observation, parts: names.HiddenName) -> str:
        """Delete a staged item that a late create has left; give any other hidden item a visible name. As `expose`."""
        item = observation.item
        staged = parts.role is names.Role.STAGED
        if staged and self._state.journal.has_tombstone(parts.transaction):
            self._delete_observed(observation)
            return ""
        label, target = "recovered" if staged else "conflict", names.join(names.parent(item.path), parts.name)
        if self.keep_second_version(
            Aside(item.id, item.path), observation, target, label, to_target=not staged
        ):
            return f"{target}: shown again, under this name or with .{label}- in it"
        return ""

    def forget_vanished(self) -> None:
        """Forget the attributes and merge bases of items that are not in the last listing. Raises FsError(EIO)."""
        self._base_keeper.forget_vanished()
        known, files = self._context.namespace.peek_by_id, self._state.index.all_files()
        vanished = [file for file in files if file.has_only_attributes and known(file.item_id) is None]
        with self._state.lock:
            # A program may have begun to write to one of them.
            self._state.drop_files(*(file for file in vanished if file.has_only_attributes))


def _is_decided_by_bytes(aside: Aside, change: Change) -> bool:
    """Return whether the bytes of an aside may decide that it is deleted (R1): it is a file that the Change replaces."""
    replaced = change.verb is Verb.PUT or (change.verb is Verb.MOVE and not change.restores_asides)
    return replaced and aside.kind is Kind.FILE


def _target_beside(item: Item, target: str) -> str:
    """Return the target's path in the directory that its aside is in: that directory may have been renamed since.

    An aside at the top of the workspace may belong to a directory elsewhere (`ItemRequests.hide_empty_directory`), so then return
    `target` itself.
    """
    above = names.parent(item.path)
    return names.join(above, names.basename(target)) if above else target


def _candidate_paths(target: str, current_target: str, label: str, *, to_target: bool) -> Iterator[str]:
    """Yield the paths to try for a second version; `to_target`: before them, the target's own path, old and current."""
    if to_target:
        yield from dict.fromkeys((target, current_target))
    for attempt in range(_NAMES):
        yield names.second_version_path(current_target, label, attempt=attempt)


def fetch_bytes_for_handles(context: Context, item_id: str) -> None:
    """Fetch what an item's open handles still lack, before the look after which it may be deleted. Raises ApiError, FsError."""
    for file in list(context.state.opened.values()):
        for handle in list(file.handles):
            content = handle.content
            if handle.item is not None and handle.item.id == item_id and isinstance(content, ContentHandle):
                # The version is gone from the server: its missing bytes can no longer be fetched.
                with contextlib.suppress(StaleVersionError, NotFoundError):
                    content.fetch_file()


def confirm_is_base(context: Context, item: Item, base: Base) -> bool:
    """Return whether an item still is the version `base`: by its timestamp, or by its bytes where only their hash proves it.

    Raises ApiError.
    """
    if item.id != base.id:
        return False
    if base.matches_version(item) and not (base.racy and base.sha256):
        return True
    # An item that was placed here, or was moved with its directory, is identified by its bytes (R2).
    return bool(base.sha256) and item_if_bytes_match(context.client, item, base.sha256) is not None


def forget_item(context: Context, item: Item) -> None:
    """Forget an item that is gone from the server. Raises FsError(EIO)."""
    context.namespace.record_deleted(item)
    context.state.forget_item(item.id)

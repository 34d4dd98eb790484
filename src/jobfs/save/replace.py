"""The steps of a Change: stage new content, look at the target, set its item aside, promote (save/protocol.md, The steps).

A save from its first line to its last, in reading order:

    vfs/files.py    write             bytes go into an open generation of the File
                    flush             one journal write: the File has a generation to send
    save/queue.py   run_until_finished  fsync runs the File's Change; otherwise the timer does
    here            run_change        runs the steps until the Change is placed, or can't continue now
                    _stage            records a transaction id; creates the hidden item while it looks at the target
                    _place_staged     repeats: set aside the item at the target (`_try_clear_target`), then promote
                    plan_aside        records the aside in the journal, and syncs that (S)
                    _try_set_aside    moves the aside to its hidden name
                    _try_move_to_target  promotes: moves the staged item to the target
                    _set_aside_and_promote  sends both requests, the second a stagger after the first (R13)
                    _record_saved     one journal write: placed, the File has its new item and base; fsync returns
    save/cleanup.py clean_up          later, if there are asides: syncs, judges each, deletes or keeps it, drops the row

If the file is unlinked during its save (vfs/tree.py `_unlink_file`), a Change that has a row is CANCELLED before unlink returns
(save/writeback.py `cancel_save`), and its next step ends in `raise_if_ended`. Then `Cleanup._undo_cancelled_change` deletes
the staged item, and the item at the target if it still is the version that was unlinked. `Cleanup.undo_refused_change` undoes a
save that the server refuses for good. A lost answer proves nothing: then `outcome_unknown` makes the next step look first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.api.wire import HeldConnection
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    BadRequestError,
    ContractError,
    FsError,
    ItemChangedError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.namespace.tree import pick_shown
from jobfs.nodes import Item
from jobfs.save.bases import BaseKeeper
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Cancelled, Context, Observation, raise_if_ended
from jobfs.save.overlap import OverlapSender
from jobfs.save.upload import Uploader, inherited_attributes
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage, Verb

log = logging.getLogger("jobfs.save")

#: Most rounds of set-aside and promote in one run: the job may make the target again each time.
_ROUNDS = 8
#: Most times in one run that an item is created, because a create made no item or the item vanished.
_CREATES = 4

#: The item at a path, None if there is none, and when the server answered so (monotonic seconds).
FoundItem = tuple[Item | None, float]


class Replacer:
    """Runs the Changes of a mount. Every method may be called from any thread; a Change has one run at a time."""

    def __init__(self, context: Context, uploader: Uploader, cleanup: Cleanup, bases: BaseKeeper) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._uploader = uploader
        self._cleanup = cleanup
        self._overlap_sender = OverlapSender(context, uploader)
        self._base_keeper = bases

    def run_change(self, change: Change) -> None:
        """Run a `put`, `mkdir` or `move` until it is placed, or return early if it was cancelled.

        Raises UnavailableError if it must be tried again later; a class of REFUSALS if it was refused for good, and was undone
        (its bytes are kept); ContractError for a wrong answer; FsError(EEXIST) for a mkdir whose name the job has taken.
        """
        try:
            for _ in range(_CREATES):
                if change.stage is Stage.STAGED:
                    self._place_staged(change, None)
                elif change.stage is Stage.STAGING:
                    self._stage(change)
            if not change.places_nothing_more:
                raise UnavailableError(f"the staged item of {change.target} keeps vanishing from the server")
        except Cancelled:
            return
        except REFUSALS as error:
            log.warning("%s: the server refuses it for good: %s", change.target, error)
            self._cleanup.undo_refused_change(change, str(error), error.errno)
            raise
        except AnswerLostError as error:
            change.outcome_unknown = True
            if isinstance(error, WrongAnswerError):
                # The answer has come, and is wrong: the caller gets the error at once, and no retry.
                raise ContractError(str(error), status=error.status) from None
            raise

    @contextlib.contextmanager
    def _lock_for_step(self, change: Change) -> Iterator[None]:
        """Hold the File's lock and the state's for one step of a Change. Raises Cancelled."""
        with change.file.lock if change.file is not None else contextlib.nullcontext(), self._state.lock:
            raise_if_ended(change)
            yield

    def _record_step(self, change: Change, *, transaction_id: str = "", **values: Any) -> None:
        """Write a step of a Change to the journal (w), with the transaction id that it uses. Raises Cancelled, FsError(EIO)."""
        with self._state.lock:
            raise_if_ended(change)
            self._state.write(edit(change, **values), transaction_id=transaction_id)

    def _stage(self, change: Change) -> None:
        """Create the new item directly at its target (R9), or hidden, and place it. Raises ApiError, FsError, Cancelled."""
        if change.verb is Verb.PUT and not change.recorded:
            self._context.retry_with_room(
                lambda: self._plan_save(change), lambda: self._bytes_to_separate(change)
            )
        staged = self._uploader.find_staged(change) if change.tid else None
        lookup: Future[FoundItem] | None = None
        if staged is None:
            self._undo_unless_bytes_whole(change)
            if self._uploader.may_create_directly(change) and self._try_create_directly(change):
                return
            self._record_new_transaction(change)
            if change.base.id:
                lookup = self._context.io_pool.submit(deadline.bind_deadline(self._find_at), change.target)
            staged = self._create_hidden(change)
        change.item = staged
        digest = self._uploader.digest_to_send(change)
        self._record_step(change, stage=Stage.STAGED, staged_id=staged.id, sha256=digest)
        self._place_staged(change, self._await_lookup(change, lookup))

    def _undo_unless_bytes_whole(self, change: Change) -> None:
        """Return if the local bytes of a save are whole, else undo the save and raise FsError(EIO)."""
        if change.verb is Verb.PUT and self._uploader.open_whole_bytes(change) is None:
            reason = f"the local bytes of {change.target} are not whole"
            self._cleanup.undo_refused_change(change, reason, errno.EIO)
            raise FsError(errno.EIO, reason)

    def _await_lookup(self, change: Change, lookup: Future[FoundItem] | None) -> FoundItem | None:
        """Wait for the look at the target that runs beside the upload; None if `_place_staged` must look. Raises ApiError."""
        if lookup is not None:
            # A look that is still queued behind other work is cancelled.
            return None if lookup.cancel() else deadline.wait_for_result(lookup, "looking at the target")
        # A new file needs no look: the server refuses a move onto an existing item (R5).
        return None if change.base.id else (None, time.monotonic())

    def _plan_save(self, change: Change) -> None:
        """Set what a save sends and replaces: its File's closed bytes and base now. Raises Cancelled, FsError(ENOSPC, EIO)."""
        file = change.file
        with file.lock if file is not None else contextlib.nullcontext():
            if file is not None:
                self._state.store.separate_closed_bytes(file)
            with self._lock_for_step(change):
                if file is None or not file.needs_upload or file.change is not change:
                    self._state.end_change(change)
                    raise Cancelled
                self._set_bytes_to_send(change, file)
        if not change.base.id:
            self._uploader.count_create_and_probe(change.target)

    def _bytes_to_separate(self, change: Change) -> int:
        """Return how many bytes `_plan_save` may have to copy. Raises FsError(EIO)."""
        file = change.file
        return self._state.bytes.file_size(file.ino, file.generation) if file is not None else 0

    def _set_bytes_to_send(self, change: Change, file: File) -> None:
        """Make a save send the closed bytes of a File, and seal these. The caller has the File's lock and the state's."""
        assert file.path is not None
        if change.generation not in (0, file.generation):
            self._state.bytes.remove_after_sync(file.ino, change.generation)
        if file.local is not None and file.local.generation == file.generation:
            file.local.sealed = True
        self._state.apply_in_memory(
            change, target=file.path, generation=file.generation, sent_close_count=file.close_count,
            size=file.size, base=file.base, sha256="",
        )  # fmt: skip

    def _record_new_transaction(self, change: Change) -> None:
        """Record a new transaction id (w), as each create needs before it is sent. Raises Cancelled, FsError(EIO)."""
        tid = names.new_transaction_id()
        self._record_step(change, transaction_id=tid, tid=tid)

    def _create_hidden(self, change: Change) -> Item:
        """Create the hidden item; after a lost answer find it, or create it again under another hidden name. Raises ApiError."""
        for _ in range(_CREATES):
            try:
                return self._uploader.create_item(change, change.hidden_path(self._context.mount))
            except (AnswerLostError, BadRequestError) as error:
                if isinstance(error, AnswerLostError):
                    # Before the look, which may fail: a create that is carried out later leaves a staged item (R4).
                    self._context.relist_after = self._context.late_request_deadline()
                if (found := self._uploader.find_staged(change)) is not None:
                    return found
                if isinstance(error, NoDirectoryError):
                    self.make_missing_directory(names.parent(change.target))
                elif isinstance(error, BadRequestError):
                    raise
            self._record_new_transaction(change)
        raise UnavailableError(f"{change.target} could not be created: it is tried again")

    def _try_create_directly(self, change: Change) -> bool:
        """Create a new file directly at its target, and record it as placed; False if another item has the target (R9)."""
        self._record_step(change, direct=True, sha256=self._uploader.digest_to_send(change))
        item = self._create_at_target(change)
        if item is None:
            change.outcome_unknown = False
            self._record_step(change, direct=False)
            return False
        # If the next write fails, the next run must look at the server.
        adopted, change.outcome_unknown = not change.outcome_unknown, True
        self._state.apply_in_memory(change, staged_id=item.id)
        self._record_placed(change, item, adopted=adopted)
        return True

    def _create_at_target(self, change: Change) -> Item | None:
        """Create the item at the target; None if another item has it. After a lost answer, an item with these bytes is ours."""
        for _ in range(_CREATES):
            if change.outcome_unknown and (found := self._uploader.find_created_directly(change)) is not None:
                return found
            try:
                return self._uploader.create_item(change, change.target)
            except NoDirectoryError:
                self.make_missing_directory(names.parent(change.target))
            except (PathExistsError, AnswerLostError) as error:
                change.outcome_unknown |= isinstance(error, AnswerLostError)
                if not change.outcome_unknown or isinstance(error, WrongAnswerError):
                    break  # another item has the name, or the answer showed another: a look decides
        return self._uploader.find_created_directly(change) if change.outcome_unknown else None

    def _find_at(self, path: str) -> FoundItem:
        return pick_shown(self._client.find(path)), time.monotonic()

    def _place_staged(self, change: Change, found: FoundItem | None) -> None:
        """Set aside the item at the target, and promote the staged item. `found`: what the target was just seen to have."""
        if change.outcome_unknown and not self._find_staged_again(change):
            return
        for turn in range(_ROUNDS):
            (current, observed_at), found = found or self._find_at(change.target), None
            if self._record_if_placed(change, current):
                return
            if current is None or self._try_clear_target(change, Observation(current, observed_at)):
                # An overlapped promote (R13) has already changed the stage.
                if change.stage is not Stage.STAGED or self._try_move_to_target(change):
                    return
                time.sleep(deadline.retry_delay(turn, first_delay=0.02))
        raise UnavailableError(f"the job keeps taking the name {change.target}: it is tried again")

    def _record_if_placed(self, change: Change, current: Item | None) -> bool:
        """Record the item at the target as placed, and return True, if nothing else must be placed. Raises FsError(EEXIST).

        That is the staged item; or, for a directory that was acknowledged in an outage, a directory that the job has made since.
        """
        if current is None:
            return False
        if current.id != change.staged_id:
            own = change.file or self._state.index.file_at(change.target)
            if change.verb is not Verb.MKDIR or (own is not None and own.needs_create and not current.is_dir):
                return False
            if not current.is_dir:
                raise PathExistsError(f"{current.path} is a file on the server")
            if change.file is None:
                raise FsError(errno.EEXIST)
            self._cleanup.remove_staged(change)
        self._record_placed(change, current, adopted=False)
        return True

    def plan_aside(
        self, change: Change, current: Item, role: names.Role = names.Role.ASIDE, sibling: str = ""
    ) -> Aside:
        """Record and sync (S) the plan to set `current` aside, under a hidden name in its directory, or in that of `sibling`."""
        aside = next((aside for aside in change.asides if aside.id == current.id), None)
        if aside is None:
            tid = names.new_transaction_id()
            path = names.hidden_path(sibling or current.path, self._context.mount, tid, role)
            # An unanswered request of an earlier save may still be on its way to this item (R7).
            aside = Aside(
                current.id, path, current.kind, size=current.size, updated_at=current.updated_at, lifecycle=current.lifecycle,
                permission=current.permission, unsure_until=self._context.unsure_until(current.id),
            )  # fmt: skip
            self._record_step(change, transaction_id=tid, asides=[*change.asides, aside])
        self._state.store.sync()
        return aside

    def _try_clear_target(self, change: Change, observation: Observation) -> bool:
        """Set aside the item at the target; return False if the target must be looked at again."""
        self._context.learn_base_hash_before_aside(change, observation.item)
        aside = self.plan_aside(change, observation.item)
        raise_if_ended(change)
        if (stagger := self._overlap_sender.choose_stagger(change, aside)) is not None:
            return self._set_aside_and_promote(change, aside, observation, stagger)
        return self._try_set_aside(
            change, aside, observation.item, lambda: self._context.update_item(observation, path=aside.path)
        )

    def _set_aside_and_promote(
        self, change: Change, aside: Aside, observation: Observation, stagger: float
    ) -> bool:
        """Set an item aside, and promote `stagger` seconds later (R13); return False if the target must be looked at again."""
        hiding, promoting = self._overlap_sender.send_pair(
            observation,
            lambda latest, held: self._context.update_item(latest, held=held, path=aside.path),
            lambda held: self._send_move(change, aside, held=held, explain=False),
            stagger,
        )
        error = promoting.exception() if promoting is not None else None
        if promoting is None or not (error is None or isinstance(error, AnswerLostError)):
            # The promote was not sent, or came too early.
            return self._try_set_aside(change, aside, observation.item, hiding.result)
        self._note_aside_outcome(change, aside, observation.item, hiding)
        if error is None:
            self._record_placed(change, promoting.result(), adopted=True)
            return True
        change.outcome_unknown = True
        if not self._find_staged_again(change) or aside.moved:
            return True
        change.displaced = ()  # neither request was carried out
        return False

    def _note_aside_outcome(self, change: Change, aside: Aside, current: Item, hiding: Future[Item]) -> None:
        """Note the outcome of an overlapped set-aside; the promote's outcome decides what follows (R13)."""
        try:
            reply = hiding.result()
        except AnswerLostError:
            aside.unsure_until = self._context.unsure_until(aside.id)
        except ApiError:
            with contextlib.suppress(Cancelled):
                self._record_step(change, asides=[])
            return
        else:
            self._context.learn_moves_keep_updated_at(current, reply)
            aside.mark_moved(reply)
        change.displaced += (current,)

    def _try_set_aside(self, change: Change, aside: Aside, current: Item, hide: Callable[[], Item]) -> bool:
        """Move the item at the target to its hidden name by `hide`; return False if the target must be looked at again."""
        try:
            reply = hide()
        except AnswerLostError as error:
            aside.unsure_until = self._context.unsure_until(aside.id)
            # If the look fails too, the next run must look again.
            was_unknown, change.outcome_unknown = change.outcome_unknown, True
            moved, change.outcome_unknown = self._mark_moved_if_hidden(aside), was_unknown
            if isinstance(error, WrongAnswerError) and not moved:
                raise
        except (NotFoundError, BadRequestError, ItemChangedError) as error:
            # An earlier unanswered request may have moved it there in the meantime.
            moved = aside.unsure_until > 0.0 and self._mark_moved_if_hidden(aside)
            if not moved:
                self._drop_unmoved_aside(change, aside, error)
        else:
            self._context.learn_moves_keep_updated_at(current, reply)
            aside.mark_moved(reply)
            moved = True
        if moved:
            change.displaced += (current,)
        return moved

    def _drop_unmoved_aside(self, change: Change, aside: Aside, error: ApiError) -> None:
        """Drop an aside that is not at its hidden name but elsewhere, or gone. Raises `error` if the server refuses the move."""
        if isinstance(error, ItemChangedError) and aside.unsure_until:
            return  # an earlier request may still move it to its hidden name
        self._record_step(change, asides=[other for other in change.asides if other is not aside])
        if isinstance(error, NoDirectoryError):
            self.make_missing_directory(names.parent(change.target))
        elif type(error) is BadRequestError and self._client.get(aside.id).path == change.target:
            raise error

    def _mark_moved_if_hidden(self, aside: Aside) -> bool:
        """Look whether an item is at its hidden name, and mark the aside as moved if so. Raises ApiError."""
        with contextlib.suppress(NotFoundError):
            item = self._client.get(aside.id)
            if aside.is_hidden_name_of(item):
                aside.mark_moved(item)
                return True
        return False

    def _try_move_to_target(self, change: Change) -> bool:
        """Promote: move the staged item to the target; return False if the target must be looked at again (R5)."""
        try:
            reply = self._send_move(change, change.first_moved_aside())
        except PathExistsError:
            return False
        except NoDirectoryError:
            self.make_missing_directory(names.parent(change.target))
            return False
        except (NotFoundError, ItemChangedError) as error:
            self._stage_again(change, elsewhere=isinstance(error, ItemChangedError))
            return True
        except AnswerLostError as error:
            change.outcome_unknown = True
            if not self._find_staged_again(change):
                return True
            if isinstance(error, WrongAnswerError):
                raise
            return False
        self._record_placed(change, reply, adopted=not change.outcome_unknown)
        return True

    def _send_move(
        self, change: Change, aside: Aside | None, *, held: HeldConnection | None = None, explain: bool = True
    ) -> Item:
        """Move the item to the target, with lifecycle and permission of `aside`. Raises Cancelled, and as `Client.update`."""
        raise_if_ended(change)
        item = change.item
        assert item is not None
        lifecycle, permission = inherited_attributes(change, item, aside)
        wanted: dict[str, Any] = {"path": change.target, "lifecycle": lifecycle, "permission": permission}
        if change.verb is Verb.MOVE:
            change.item, reply = self._context.update_item_and_compare(
                self._context.last_observation_of(item), held=held, explain=explain, **wanted
            )
            return reply
        # Only this mount knows its hidden name: no look is needed.
        with self._context.mark_unsure_if_lost(item.id):
            return self._client.update(item.id, kind=item.kind, connection=held, explain=explain, **wanted)

    def _find_staged_again(self, change: Change) -> bool:
        """Find the staged item after a lost move or a restart (R6). Return True if it is still where it was staged.

        Otherwise return False: it was promoted and is recorded as placed, or it is gone and the Change stages again.
        """
        for aside in [aside for aside in change.asides if not aside.moved]:
            aside.unsure_until = self._context.mark_unanswered(aside.id)
            self._mark_moved_if_hidden(aside)
        try:
            item = self._client.get(change.staged_id)
        except NotFoundError:
            self._stage_again(change)
            return False
        if change.is_staged_item(item) and item.path != change.target:
            change.item = item
            return True
        was_at = change.source or change.hidden_path(self._context.mount)
        self._context.undo_other_form(item, change.target, was_at)
        self._record_placed(change, item, adopted=False)
        return False

    def _stage_again(self, change: Change, *, elsewhere: bool = False) -> None:
        """Return a save to `staging` after its staged item vanished.

        A rename has no bytes to stage: undo it, and raise NotFoundError. `elsewhere`: its source has another name now.
        """
        if change.verb is Verb.MOVE:
            if change.item is not None and not elsewhere:
                self._context.namespace.record_deleted(change.item)
            self._cleanup.undo_refused_change(change, "it vanished from the server", errno.ENOENT)
            raise NotFoundError(f"{change.source} is no longer on the server")
        change.item, change.outcome_unknown = None, False
        self._record_step(change, stage=Stage.STAGING, tid="", staged_id="")

    # -- placed: one step updates the journal, the File, the namespace and the content cache

    def _record_placed(self, change: Change, item: Item, *, adopted: bool) -> None:
        """Record that a Change is placed as `item`; `adopted`: `item` is the reply to its move or create (R2)."""
        before, change.item = change.item, item
        if change.file is not None and change.verb is Verb.PUT:
            self._record_saved(change, change.file, item, adopted=adopted)
            return
        self._record_moved(change, item)
        self._context.note_rename(item.id, change.target)
        if before is not None and adopted:
            self._context.carry_notes_over(before, item)
        elif change.verb is Verb.MOVE:  # perhaps one that an earlier mount has sent
            self._context.carry_notes_to_path(before or replace(item, path=change.source), item.path)

    def _record_saved(self, change: Change, file: File, item: Item, *, adopted: bool) -> None:
        state, content = self._state, self._context.content
        source = state.bytes.generation_path(file.ino, change.generation)
        # Copied before the locks are taken, because readers wait for these.
        saved = content.create_partial_from(source) if adopted else None
        copy = state.saves.prepare(change.target, source, change.size, change.sha256)
        try:
            with self._lock_for_step(change):
                # Before the journal has the save: a kill in between must not leave the previous save as the last one.
                self._base_keeper.keep_as_last_save(change, copy)
                self._write_saved(change, file, item)
                self._state.read_log.note_placed(item.path, replace(file.base, racy=not adopted))
                if adopted:
                    content.remember_size(item, change.size)
                self._update_namespace(change, item)
                if file.local is not None and file.local.generation == change.generation:
                    self._move_handles_to_saved(file, item, in_cache=saved is not None)
                state.bytes.remove_after_sync(file.ino, change.generation)
                if saved is not None:
                    # After the handles have opened the version: these bytes serve them even if the version is too racy to cache.
                    content.adopt_file(item, saved)
        finally:
            state.saves.discard(copy)

    def _write_saved(self, change: Change, file: File, item: Item) -> None:
        """Write to the journal and the tables that a save is placed as `item`. The caller has the locks. Raises FsError(EIO)."""
        sent = {"generation": 0, "size": 0, "boot": ""} if file.generation == change.generation else {}
        was_set_here = file.pending_permission is item.permission
        self._state.write(
            *([edit(change, stage=Stage.PLACED)] if change.asides else []),
            edit(
                file,
                item_id=item.id,
                base=Base(item.id, item.updated_at, change.size, change.sha256, racy=True),
                version=item.updated_at,
                sha256=change.sha256,
                # The permission that belongs to the remembered mode: one that the job has set meanwhile changes the mode shown.
                permission=item.permission if was_set_here else file.permission,
                pending_permission=None if was_set_here else file.pending_permission,
                refused="",
                **sent,
            ),
            remove=[] if change.asides else [change],
        )
        file.item, file.change = item, None

    def _record_moved(self, change: Change, item: Item) -> None:
        state, file = self._state, change.file
        with self._lock_for_step(change):
            overwritten = change.files_moved_over()
            made = []
            if file is not None and change.verb is Verb.MKDIR:
                made = [edit(file, item_id=item.id, version=item.updated_at)]
            if file is not None and file.change is change:
                file.change = None
            state.write(edit(change, stage=Stage.PLACED), *made, remove=overwritten)
            for replaced in overwritten:
                state.unlink_file(replaced)
            self._base_keeper.keep_last_save_as_base(change)
            self._update_namespace(change, item)
            # The namespace has the outcome now, so the override can go, however long cleanup takes.
            state.apply_in_memory(change, shows={})
            if file is not None and not overwritten and change.generation not in (0, file.generation):
                state.bytes.remove_after_sync(file.ino, change.generation)

    def _update_namespace(self, change: Change, item: Item) -> None:
        for taken in change.displaced:
            self._context.namespace.record_deleted(taken)
        self._context.namespace.record_own_change(item)

    def _move_handles_to_saved(self, file: File, item: Item, *, in_cache: bool) -> None:
        """Let the handles of a saved File continue with the saved bytes, cached or local, and close the local bytes."""
        local, file.item = file.local, item
        assert local is not None
        for handle in file.handles:
            handle.continue_with(item, self._context.content.open(item) if in_cache else local.acquire())
        file.local = None  # last: until then, these bytes give the attributes
        if file.handles:
            local.release()
        self._state.index.reindex(file)

    def clean_up(self, change: Change) -> float:
        """Clean up after a finished Change as `Cleanup.clean_up`; make directories that are missing for asides that go back."""
        try:
            return self._cleanup.clean_up(change)
        except NoDirectoryError:
            self.make_missing_directory(names.parent(change.target))
            return self._cleanup.clean_up(change)

    def make_missing_directory(self, path: str) -> None:
        """Make a directory that a save needs, and the missing ones above it. Raises ApiError, FsError."""
        if self._has_directory(path):
            return
        try:
            self.make_new_directory(path)
        except FsError:
            if not self._has_directory(path):
                raise

    def make_new_directory(self, path: str) -> Item:
        """Make a directory hidden, and promote it, so that no second one gets its name (R9). Raises FsError(EEXIST), ApiError."""
        with self._state.plan_for_caller(Verb.MKDIR, path) as change:
            try:
                self.run_change(change)
            finally:
                self.abandon_change(change)
                if not change.asides and change.stage is Stage.PLACED:
                    self._state.end_change(change)
        assert change.item is not None
        return change.item

    def abandon_change(self, change: Change) -> None:
        """Cancel a Change whose caller gets an error: cleanup undoes its steps and gives its asides back. Raises FsError(EIO)."""
        with self._state.lock:
            if change.recorded and change.started and not change.places_nothing_more:
                self._state.cancel_change(change, shows={})
            elif not change.places_nothing_more:
                self._state.end_change(change)

    def _has_directory(self, path: str) -> bool:
        return not path or any(item.is_dir for item in self._client.find(path))

"""The verb: stage the source if it is bytes, look, set aside what stands at the target, place the source (save/protocol.md).

A save from its first line to its last, in reading order:

    vfs/files.py    write        bytes go into an open generation of the File
                    flush        one journal write: this File has a generation to be sent
    save/queue.py   commit       fsync, or the timer: the File's Change runs
    here            run          until the server has the outcome, or there is a reason to stop
                    _stage       a transaction id in the journal; the hidden item is made while the target is looked at
                    _place       again and again: `_make_room` sets aside what stands at the target, then the item is moved there
                    plan_aside   what stands there goes into the journal, which is synced (S)
                    _set_aside   it is moved to its hidden name
                    _move        the staged item takes the target's place
                    _overlap     or both at once, the second a moment behind the first (R13)
                    _saved       one journal write: placed, the File's item and base are new; fsync answers
    save/cleanup.py finish       later, where something was set aside: sync, look at it, delete it or keep both, drop the row;
                                 `finish` here makes the directories again that what goes back needs

If its file is unlinked meanwhile (vfs/tree.py `_unlink_file`), a Change that has a row is CANCELLED before unlink returns
(save/writeback.py `cancel`): each step asks `check` whether to go on. save/cleanup.py `_take_back` then deletes the staged item,
and the item at the target if it is still the version that was seen. A save that is refused for good is undone (save/cleanup.py
`undo`).

Nothing is assumed of a request whose answer did not come: a Change that is `unsure` looks at the server before its next step.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.api.wire import Turn
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
from jobfs.namespace.tree import shown
from jobfs.nodes import Item
from jobfs.save.bases import Bases
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Cancelled, Context, Look, check
from jobfs.save.overlap import Overlap
from jobfs.save.upload import Upload, taken_over
from jobfs.state import Change, File, edit
from jobfs.state.records import Aside, Base, Stage, Verb

log = logging.getLogger("jobfs.save")

#: Most times that a target is set aside because the job keeps making it again, in one run.
_ROUNDS = 8
#: Most times in one run that an item is made again, because the create ended without an item, or the item vanished.
_CREATES = 4


#: What stands at a path, and when that was answered (monotonic seconds).
Finding = tuple[Item | None, float]


class Replace:
    """Runs Changes. One for a mount; every method may be called from any thread, one run per Change."""

    def __init__(self, context: Context, upload: Upload, cleanup: Cleanup, bases: Bases) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._upload = upload
        self._cleanup = cleanup
        self._overlaps = Overlap(context, upload)
        self._bases = bases

    def run(self, change: Change) -> None:
        """Drive a `put`, `mkdir` or `move` on until it is placed or found cancelled.

        Raises UnavailableError if it has to be tried again later, a class of REFUSALS if the server refuses it for good (then
        it is undone, and the bytes are kept), ContractError for a wrong answer, FsError(EEXIST) for a mkdir that came too late.
        """
        try:
            for _ in range(_CREATES):
                if change.stage is Stage.STAGED:
                    self._place(change, None)
                elif change.stage is Stage.STAGING:
                    self._stage(change)
            if not change.over:
                raise UnavailableError(f"what is made for {change.target} keeps vanishing")
        except Cancelled:
            return
        except REFUSALS as error:
            log.warning("%s: refused for good: %s", change.target, error)
            self._cleanup.undo(change, str(error), error.errno)
            raise
        except AnswerLostError as error:
            change.unsure = True
            if isinstance(error, WrongAnswerError):
                # No answer is on its way: the caller is told at once.
                raise ContractError(str(error), status=error.status) from None
            raise

    @contextlib.contextmanager
    def _going_on(self, change: Change) -> Iterator[None]:
        """Hold the File's lock and the state's for one step of a change, if that is to go on. Raises Cancelled."""
        with change.file.lock if change.file is not None else contextlib.nullcontext(), self._state.lock:
            check(change)
            yield

    def _record(self, change: Change, *, used: str = "", **values: Any) -> None:
        """Write a step of the change (w), and a transaction id that it uses. Raises Cancelled, FsError(EIO)."""
        with self._state.lock:
            check(change)
            self._state.write(edit(change, **values), used=used)

    def _stage(self, change: Change) -> None:
        """Bring the new content to the server, straight to the target (R9) or hidden, and place it.

        Raises FsError(EIO) if it is not whole here: then the change is undone.
        """
        if change.verb is Verb.PUT and not change.recorded:
            self._context.with_room(lambda: self._plan(change), lambda: self._bytes_to_set_apart(change))
        staged = self._upload.find(change) if change.tid else None
        look: Future[Finding] | None = None
        if staged is None:
            self._need_whole(change)
            if self._upload.may_be_direct(change) and self._create_directly(change):
                return
            self._attempt(change)
            if change.base.id:
                look = self._context.io_pool.submit(deadline.carried(self._look), change.target)
            staged = self._create(change)
        change.item = staged
        self._record(change, stage=Stage.STAGED, staged_id=staged.id, sha256=self._upload.digest(change))
        self._place(change, self._seen(change, look))

    def _need_whole(self, change: Change) -> None:
        """Undo a save whose local bytes are not whole, and raise FsError(EIO)."""
        if change.verb is Verb.PUT and self._upload.whole(change) is None:
            reason = f"the local bytes of {change.target} are not whole"
            self._cleanup.undo(change, reason, errno.EIO)
            raise FsError(errno.EIO, reason)

    def _seen(self, change: Change, look: Future[Finding] | None) -> Finding | None:
        """Return what a look beside the upload saw at the target; None if `_place` must look. Raises ApiError."""
        if look is not None:
            # Where other work is before it, the look has not begun.
            return None if look.cancel() else deadline.result(look, "looking at the target")
        # A new file needs no look: a move onto something that stands there is refused (R5).
        return None if change.base.id else (None, time.monotonic())

    def _plan(self, change: Change) -> None:
        """Decide what the save of a File sends and replaces: its closed bytes and its base as they are now.

        Raises Cancelled; FsError(ENOSPC, EIO) if its closed bytes can't be set apart from those behind them.
        """
        file = change.file
        with file.lock if file is not None else contextlib.nullcontext():
            if file is not None:
                self._state.store.set_apart(file)
            with self._going_on(change):
                if file is None or not file.unsaved or file.change is not change:
                    self._state.end(change)
                    raise Cancelled
                self._take_closed(change, file)
        if not change.base.id:
            self._upload.count_new(change.target)

    def _bytes_to_set_apart(self, change: Change) -> int:
        """Return how many bytes `_plan` may have to copy. Raises FsError(EIO)."""
        file = change.file
        return self._state.bytes.length(file.ino, file.generation) if file is not None else 0

    def _take_closed(self, change: Change, file: File) -> None:
        """Have a save send what is closed of a File now, and seal that. The caller has the File's lock and the state's."""
        assert file.path is not None
        if change.generation not in (0, file.generation):
            self._state.bytes.retire(file.ino, change.generation)
        if file.local is not None and file.local.generation == file.generation:
            file.local.sealed = True
        self._state.apply(
            change, target=file.path, generation=file.generation, closes=file.closes, size=file.size, base=file.base,
            sha256="",
        )  # fmt: skip

    def _attempt(self, change: Change) -> None:
        """A new transaction id for each attempt to create, in the journal before it is sent (w). Raises Cancelled."""
        tid = names.new_transaction_id()
        self._record(change, used=tid, tid=tid)

    def _create(self, change: Change) -> Item:
        """Make the hidden item; after a lost answer look for it, then make it again under another name. Raises ApiError."""
        for _ in range(_CREATES):
            try:
                return self._upload.create(change, change.hidden(self._context.mount))
            except (AnswerLostError, BadRequestError) as error:
                if (found := self._upload.find(change)) is not None:
                    return found
                if isinstance(error, NoDirectoryError):
                    self.make_directory(names.parent(change.target))
                elif isinstance(error, BadRequestError):
                    raise
                else:
                    # Carried out late, the create leaves a staged item whose transaction is a tombstone (R4).
                    self._context.look_again = self._context.may_come_until()
            self._attempt(change)
        raise UnavailableError(f"{change.target} can't be made: it is tried again")

    def _create_directly(self, change: Change) -> bool:
        """Make a new file straight at its target; False: something else is there, and the file is saved the hidden way."""
        self._record(change, direct=True, sha256=self._upload.digest(change))
        item = self._make_at_target(change)
        if item is None:
            change.unsure = False
            self._record(change, direct=False)
            return False
        adopted, change.unsure = not change.unsure, True  # if this is not recorded, the next run looks
        self._state.apply(change, staged_id=item.id)
        self._placed(change, item, adopted=adopted)
        return True

    def _make_at_target(self, change: Change) -> Item | None:
        """The new item at the target, None if something else is there. After a lost answer, the same bytes there are ours."""
        for _ in range(_CREATES):
            if change.unsure and (found := self._upload.find_direct(change)) is not None:
                return found
            try:
                return self._upload.create(change, change.target)
            except (PathExistsError, WrongAnswerError):
                if not change.unsure:
                    return None
            except NoDirectoryError:
                self.make_directory(names.parent(change.target))
            except AnswerLostError:
                change.unsure = True
        return self._upload.find_direct(change) if change.unsure else None

    def _look(self, path: str) -> Finding:
        return shown(self._client.find(path)), time.monotonic()

    def _place(self, change: Change, look: Finding | None) -> None:
        """Bring the staged item to the target, setting aside what stands there; `look`: what was seen there just now."""
        if change.unsure and not self._look_at_staged(change):
            return
        for turn in range(_ROUNDS):
            (there, answered), look = look or self._look(change.target), None
            if self._is_there(change, there):
                return
            if there is None or self._make_room(change, Look(there, answered)):
                # Where it was promoted at the same time (R13), it has left this stage.
                if change.stage is not Stage.STAGED or self._move(change):
                    return
                time.sleep(deadline.backoff(turn, first=0.02))
        raise UnavailableError(f"{change.target} is taken again and again")

    def _is_there(self, change: Change, there: Item | None) -> bool:
        """True if the item at the target is the one that was to be placed. Raises FsError(EEXIST).

        A directory that was acknowledged in an outage may be the job's; a file of the job makes room for it.
        """
        if there is None:
            return False
        if there.id != change.staged_id:
            own = change.file or self._state.index.at(change.target)
            if change.verb is not Verb.MKDIR or (own is not None and own.unmade and not there.is_dir):
                return False
            if not there.is_dir:
                raise PathExistsError(f"{there.path} is a file there")
            if change.file is None:
                raise FsError(errno.EEXIST)
            self._cleanup.remove_staged(change)
        self._placed(change, there, adopted=False)
        return True

    def plan_aside(
        self, change: Change, there: Item, role: names.Role = names.Role.ASIDE, at: str = ""
    ) -> Aside:
        """Record and sync ((S)) that `there` is to be set aside: beside its path, or beside `at`."""
        aside = next((aside for aside in change.asides if aside.id == there.id), None)
        if aside is None:
            tid = names.new_transaction_id()
            path = names.hidden_path(at or there.path, self._context.mount, tid, role)
            # An earlier save of ours may have placed it, with a request that is still on its way (R7).
            aside = Aside(
                there.id, path, there.kind, size=there.size, updated_at=there.updated_at, lifecycle=there.lifecycle,
                permission=there.permission, unsure_until=self._context.unsure_until(there.id),
            )  # fmt: skip
            self._record(change, used=tid, asides=[*change.asides, aside])
        self._state.store.sync()
        return aside

    def _make_room(self, change: Change, look: Look) -> bool:
        """Set aside what stands at the target; False: look at the target again."""
        self._context.learn_base(change, look.item)
        aside = self.plan_aside(change, look.item)
        check(change)
        if (stagger := self._overlaps.stagger(change, aside)) is not None:
            return self._overlap(change, aside, look, stagger)
        return self._set_aside(change, aside, look.item, partial(self._context.update, look, path=aside.path))

    def _overlap(self, change: Change, aside: Aside, look: Look, stagger: float) -> bool:
        """Set an item aside, and promote `stagger` seconds behind that (R13); False: look at the target again."""
        there = look.item
        hiding, promoting = self._overlaps.send(
            look,
            lambda look, turn: self._context.update(look, held=turn, path=aside.path),
            lambda turn: self._promote(change, aside, turn=turn, explain=False),
            stagger,
        )
        error = promoting.exception() if promoting is not None else None
        if promoting is None or not (error is None or isinstance(error, AnswerLostError)):
            return self._set_aside(change, aside, there, hiding.result)  # not sent, or too early
        self._note_aside(change, aside, there, hiding)
        if error is None:
            self._placed(change, promoting.result(), adopted=True)
            return True
        change.unsure = True
        if not self._look_at_staged(change) or aside.moved:
            return True
        change.taken = ()  # neither was carried out
        return False

    def _note_aside(self, change: Change, aside: Aside, there: Item, hiding: Future[Item]) -> None:
        """Note what became of a set-aside, whatever that means for its save: promote's outcome decides (R13)."""
        try:
            answer = hiding.result()
        except AnswerLostError:
            aside.unsure_until = self._context.unsure_until(aside.id)
        except ApiError:
            with contextlib.suppress(Cancelled):
                self._record(change, asides=[])
            return
        else:
            self._context.learn_of_move(there, answer)
            aside.seen(answer)
        change.taken += (there,)

    def _set_aside(self, change: Change, aside: Aside, there: Item, hide: Callable[[], Item]) -> bool:
        """Move the item at the target to its hidden name by `hide`; False: look at the target again."""
        try:
            answer = hide()
        except AnswerLostError as error:
            aside.unsure_until = self._context.unsure_until(aside.id)
            unsure, change.unsure = change.unsure, True  # until it was seen
            moved, change.unsure = self._has_moved(aside), unsure
            if isinstance(error, WrongAnswerError) and not moved:
                raise
        except (NotFoundError, BadRequestError, ItemChangedError) as error:
            # An earlier request that went unanswered may have been carried out meanwhile.
            moved = aside.unsure_until > 0.0 and self._has_moved(aside)
            if not moved:
                self._drop_aside(change, aside, error)
        else:
            self._context.learn_of_move(there, answer)
            aside.seen(answer)
            moved = True
        if moved:
            change.taken += (there,)
        return moved

    def _drop_aside(self, change: Change, aside: Aside, error: ApiError) -> None:
        """The item was not set aside: it is elsewhere, or gone. Raises `error` if the move is refused."""
        if isinstance(error, ItemChangedError) and aside.unsure_until:
            return  # an earlier request may still bring it to its hidden name
        self._record(change, asides=[other for other in change.asides if other is not aside])
        if isinstance(error, NoDirectoryError):
            self.make_directory(names.parent(change.target))
        elif type(error) is BadRequestError and self._client.get(aside.id).path == change.target:
            raise error

    def _has_moved(self, aside: Aside) -> bool:
        """True if the item is seen at its hidden name."""
        with contextlib.suppress(NotFoundError):
            item = self._client.get(aside.id)
            if aside.is_at(item):
                aside.seen(item)
                return True
        return False

    def _move(self, change: Change) -> bool:
        """Move the staged item to the target; False: the target has to be looked at again (R5)."""
        try:
            answer = self._promote(change, change.replaced())
        except PathExistsError:
            return False
        except NoDirectoryError:
            self.make_directory(names.parent(change.target))
            return False
        except (NotFoundError, ItemChangedError) as error:
            self._staged_gone(change, elsewhere=isinstance(error, ItemChangedError))
            return True
        except AnswerLostError as error:
            change.unsure = True
            if not self._look_at_staged(change):
                return True
            if isinstance(error, WrongAnswerError):
                raise
            return False
        self._placed(change, answer, adopted=not change.unsure)
        return True

    def _promote(
        self, change: Change, was: Aside | None, *, turn: Turn | None = None, explain: bool = True
    ) -> Item:
        """Send the move to the target; it takes over what `was` has. The rest as `Client.update`. Raises Cancelled, ApiError."""
        check(change)
        item = change.item
        assert item is not None
        lifecycle, permission = taken_over(change, item, was)
        wanted: dict[str, Any] = {"path": change.target, "lifecycle": lifecycle, "permission": permission}
        if change.verb is Verb.MOVE:
            change.item, answer = self._context.changed(
                self._context.named(item), held=turn, explain=explain, **wanted
            )
            return answer
        # Only this mount knows its hidden name: no look is needed.
        with self._context.noting_loss(item.id):
            return self._client.update(item.id, kind=item.kind, turn=turn, explain=explain, **wanted)

    def _look_at_staged(self, change: Change) -> bool:
        """After a lost move or a restart: find the staged item (R6). True: it is where it was. Else that is dealt with."""
        for aside in [aside for aside in change.asides if not aside.moved]:
            aside.unsure_until = self._context.unanswered(aside.id)
            self._has_moved(aside)
        try:
            item = self._client.get(change.staged_id)
        except NotFoundError:
            self._staged_gone(change)
            return False
        if change.is_staged(item) and item.path != change.target:
            change.item = item
            return True
        self._context.check_form(item, change.target, change.source or change.hidden(self._context.mount))
        self._placed(change, item, adopted=False)
        return False

    def _staged_gone(self, change: Change, *, elsewhere: bool = False) -> None:
        """The staged item vanished: make it again from the local bytes; a rename's source has none.

        `elsewhere`: somebody has given a rename's source another name.
        """
        if change.verb is Verb.MOVE:
            if change.item is not None and not elsewhere:
                self._context.namespace.forget(change.item)
            self._cleanup.undo(change, "it vanished from the server", errno.ENOENT)
            raise NotFoundError(f"{change.source} is not on the server any more")
        change.item, change.unsure = None, False
        self._record(change, stage=Stage.STAGING, tid="", staged_id="")

    # -- placed: in one step the journal, the File, the namespace and the content cache know the outcome

    def _placed(self, change: Change, item: Item, *, adopted: bool) -> None:
        """`adopted`: `item` is the move's own answer, or the create's (R2). Raises Cancelled, FsError(EIO)."""
        before, change.item = change.item, item
        if change.file is not None and change.verb is Verb.PUT:
            self._saved(change, change.file, item, adopted=adopted)
            return
        self._moved(change, item)
        self._context.renamed(item.id, change.target)
        if before is not None and adopted:
            self._context.touched(before, item)

    def _saved(self, change: Change, file: File, item: Item, *, adopted: bool) -> None:
        state, content = self._state, self._context.content
        source = state.bytes.path(file.ino, change.generation)
        # Copied before the locks are taken: readers wait for them.
        saved = content.take(source) if adopted else None
        copy = state.saves.take(change.target, source, change.size, change.sha256)
        try:
            with self._going_on(change):
                # Before the journal has the save: a kill in between must not leave the save before as the last one.
                self._bases.keep_save(change, copy)
                self._write_saved(change, file, item)
                if adopted:
                    content.remember(item, change.size)
                self._tell(change, item)
                if file.local is not None and file.local.generation == change.generation:
                    self._go_on(file, item, adopted=adopted)
                state.bytes.retire(file.ino, change.generation)
                if saved is not None:
                    # After the handles have opened the version: even if it is too young to be kept, it serves them.
                    content.adopt(item, saved)
        finally:
            state.saves.discard(copy)

    def _write_saved(self, change: Change, file: File, item: Item) -> None:
        """Record that a save is placed, as `item`. The caller has the locks. Raises FsError(EIO)."""
        sent = {"generation": 0, "size": 0, "boot": ""} if file.generation == change.generation else {}
        self._state.write(
            *([edit(change, stage=Stage.PLACED)] if change.asides else []),
            edit(
                file,
                item_id=item.id,
                base=Base(item.id, item.updated_at, change.size, change.sha256, young=True),
                version=item.updated_at,
                sha256=change.sha256,
                permission=item.permission,
                wish=None if file.wish is item.permission else file.wish,
                refused="",
                **sent,
            ),
            gone=[] if change.asides else [change],
        )
        file.item, file.change = item, None
        self._state.readers.placed(item.path, file.base)

    def _moved(self, change: Change, item: Item) -> None:
        state, file = self._state, change.file
        with self._going_on(change):
            gone = change.moved_over()
            made = []
            if file is not None and change.verb is Verb.MKDIR:
                made = [edit(file, item_id=item.id, version=item.updated_at)]
            if file is not None and file.change is change:
                file.change = None
            state.write(edit(change, stage=Stage.PLACED), *made, gone=gone)
            for replaced in gone:
                state.unname(replaced)
            self._bases.save_replaces(change)
            self._tell(change, item)
            # The namespace has the outcome: from here on its names show it, however long cleanup takes.
            state.apply(change, shows={})
            if file is not None and not gone and change.generation not in (0, file.generation):
                state.bytes.retire(file.ino, change.generation)

    def _tell(self, change: Change, item: Item) -> None:
        for taken in change.taken:
            self._context.namespace.forget(taken)
        self._context.namespace.publish(item)

    def _go_on(self, file: File, item: Item, *, adopted: bool) -> None:
        """Handles go on with the version that was saved."""
        local, file.item = file.local, item
        assert local is not None
        for handle in file.handles:
            handle.go_on(item, self._context.content.open(item) if adopted else local.acquire())
        file.local = None  # last: until then the attributes are those of these bytes
        if file.handles:
            local.release()
        self._state.index.show(file)

    def finish(self, change: Change) -> float:
        """Clean up after a Change that is over (`Cleanup.finish`); make the directories that are missing above what goes back."""
        try:
            return self._cleanup.finish(change)
        except NoDirectoryError:
            self.make_directory(names.parent(change.target))
            return self._cleanup.finish(change)

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it, that is missing under a save. Raises ApiError."""
        if self._is_directory(path):
            return
        try:
            self.make(path)
        except FsError:
            if not self._is_directory(path):
                raise

    def make(self, path: str) -> Item:
        """A new directory, hidden and moved: there may be no second of its name (R9). Raises FsError(EEXIST), ApiError."""
        with self._state.running(Verb.MKDIR, path) as change:
            try:
                self.run(change)
            finally:
                self.give_up(change)
                if not change.asides and change.stage is Stage.PLACED:
                    self._state.end(change)
        assert change.item is not None
        return change.item

    def give_up(self, change: Change) -> None:
        """The caller is told that the change failed: cleanup takes back what was begun, and gives back the asides."""
        with self._state.lock:
            if change.recorded and change.begun and not change.over:
                self._state.cancel(change, shows={})
            elif not change.over:
                self._state.end(change)

    def _is_directory(self, path: str) -> bool:
        return not path or any(item.is_dir for item in self._client.find(path))

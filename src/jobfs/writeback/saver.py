"""The first half of a save's way: stage, set aside, promote (save-protocol.md, The steps).

`Saver.run` drives a transaction to `promoted` by looking at what the server has, never by assuming that its last request
did or did not arrive. What follows `promoted` (judging what was set aside) is judge.py's.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future

from jobfs import names
from jobfs.api import Client
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    BadRequestError,
    FsError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
    UnavailableError,
)
from jobfs.namespace.overlay import shown
from jobfs.nodes import Item
from jobfs.writeback.direct import Direct
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Aside, Attempt, SaveKind, State
from jobfs.writeback.stager import Stager
from jobfs.writeback.transaction import Cancelled, Finding, Transaction
from jobfs.writeback.unanswered import Unanswered
from jobfs.writeback.undo import undo

log = logging.getLogger("jobfs.writeback")

#: Most times that a target is set aside because the job keeps making it again, in one run.
ROUNDS = 8
#: An answer to find is fresh for at least this long, in seconds (R8).
_FRESH = 0.05
#: Timestamps younger than this, in seconds, do not prove that bytes are equal (R1).
YOUNG = 2.0


class Saver:
    """Runs transactions. One for a mount; every method may be called from any thread, one run per transaction."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        stager: Stager,
        direct: Direct,
        pool: Executor,
        mount: str,
        *,
        sync: Callable[[], None],
        unanswered: Unanswered,
        placed: Callable[[Transaction, Item | None, Item, bool], None],
        learn: Callable[[Item], str],
        fine_clock: Callable[[str], bool],
    ) -> None:
        """`sync` is the protocol's (S).

        `placed(transaction, before, item, adopted)` writes `promoted` to the journal and publishes it, or raises Cancelled;
        `before`: the item before its last move; `adopted`: updatedAt is from the promote's own answer (R2).
        `learn(item)` fetches a version's bytes and returns their hash. `fine_clock(updated_at)`: the server's clock is known to
        be finer than a second.
        """
        self._client = client
        self._journal = journal
        self._stager = stager
        self._direct = direct
        self._sync = sync
        self._pool = pool
        self._mount = mount
        self._unanswered = unanswered
        self._placed = placed
        self._learn = learn
        self._fine_clock = fine_clock
        #: True once this server was seen to leave `updatedAt` alone when it moved an old item.
        self.moves_keep_updated_at = False

    def run(self, work: Transaction) -> None:
        """Drive `work` on until it is promoted or found cancelled.

        Raises UnavailableError if it has to be tried again later, a class of REFUSALS if the server refuses it for good (then
        everything set aside is back and the bytes are kept), FsError(EEXIST) for a mkdir that came too late.
        """
        try:
            while work.save.state in (State.STAGING, State.STAGED):
                if work.save.state is State.STAGING:
                    self._stage(work)
                else:
                    self._start_learning(work)
                    self._place(work, None)
        except Cancelled:
            return
        except REFUSALS as error:
            log.warning("%s: refused by the server: %s", work.save.target, error)
            # Not only a refused request may have come before: one without an answer too.
            work.unsure = True
            try:
                undo(self._client, self._journal, work, str(error), error.errno)
            except FsError as full:
                # Everything is where it was, but not recorded: whoever waits is told of the refusal all the same.
                log.warning("%s: %s", work.save.target, full)
            raise
        except UnavailableError:
            work.unsure = True
            raise

    # -- staging

    def _stage(self, work: Transaction) -> None:
        """Create H beside the target, and look at the target meanwhile; or create it there at once (R9)."""
        save = work.save
        if (save.direct or self._direct.wanted(work)) and (item := self._direct.create(work)):
            with work.lock:
                work.check()
                save.become(State.STAGED)
            self._promoted(work, item, adopted=not work.unsure)
            return
        staged = self._stager.find(save) if save.tid else None
        look: Future[Finding] | None = None
        if staged is None:
            self._stager.begin(work)
            if save.base.id:
                look = self._pool.submit(self._look, save.target)
            if work.local is not None:
                self._pool.submit(work.local.sha256)
            self._start_learning(work)
            staged = self._stager.create(work)
        work.item = staged
        if work.local is not None:
            save.sha256 = work.local.sha256()
        save.staged_id, save.staged_updated_at = staged.id, staged.updated_at
        work.advance(self._journal, State.STAGED)
        if look is not None:
            self._place(work, look.result())
        else:
            # For a new file nobody has to look: a promote onto something that stands there is refused (R5).
            self._place(work, None if save.base.id else Finding([], time.monotonic()))

    # -- set aside and promote

    def _place(self, work: Transaction, finding: Finding | None) -> None:
        """Bring the staged item to the target, setting aside what stands there."""
        save = work.save
        if work.unsure and not self._look_at_staged(work):
            return None
        for turn in range(ROUNDS):
            finding = finding or self._look(save.target)
            there = shown(finding.items)
            if there is not None and there.id == save.staged_id:
                return self._promoted(work, there, adopted=False)
            if there is not None:
                work.covered.update(item.id for item in finding.items if item is not there)
                if save.kind is SaveKind.MKDIR:
                    raise FsError(errno.EEXIST)
                if not self._learned(work, there, finding):
                    finding = None
                    continue
                aside = self._plan_aside(work, there)
                if not self._fresh(finding):
                    finding = self._look(save.target)
                    again = shown(finding.items)
                    if again is None or again.id != there.id:
                        continue
                    there = again
                if not self._set_aside(work, aside, there):
                    finding = None
                    continue
            if self._promote(work):
                return None
            finding = None
            time.sleep(random.uniform(0.5, 1.0) * 0.02 * 2**turn)
        raise UnavailableError(f"{save.target} keeps being made again by the job", endpoint="update")

    def _plan_aside(self, work: Transaction, there: Item) -> Aside:
        """Journal that `there` is about to be set aside, synced with the local bytes (the protocol's (S))."""
        for aside in work.asides:
            if aside.id == there.id:
                self._sync()
                return aside
        tid = names.new_transaction_id()
        path = names.hidden_path(work.save.target, self._mount, tid, names.Role.ASIDE)
        aside = Aside(
            id=there.id,
            seq=work.save.seq,
            name=names.basename(path),
            order=len(work.asides),
            path=path,
            kind=there.kind,
            size=there.size,
            updated_at=there.updated_at,
            lifecycle=there.lifecycle,
            permission=there.permission,
            # It may be what an earlier save of ours promoted, with a request that is still on its way (R7).
            unsure_until=self._unanswered.until(there.id),
        )
        work.record(self._journal, aside, Attempt(tid, work.save.seq, time.time()))
        work.asides.append(aside)
        self._sync()
        return aside

    def _set_aside(self, work: Transaction, aside: Aside, there: Item) -> bool:
        """Move `there` to its hidden name; False: look at the target again."""
        work.check()
        try:
            answer = self._client.update(aside.id, path=aside.path, once=True)
        except AnswerLostError:
            aside.unsure_until = self._unanswered.note(aside.id)
            try:
                answer = self._client.get(aside.id)
            except NotFoundError:
                return False
            if names.basename(answer.path) != aside.name:
                return False
        except (NotFoundError, BadRequestError) as error:
            work.asides.remove(aside)
            work.record(self._journal, gone=[aside])
            if isinstance(error, NoDirectoryError):
                self._stager.make_directory(names.parent(work.save.target))
            return False
        else:
            self._notice_move(there, answer)
        aside.moved = True
        aside.size, aside.updated_at = answer.size, answer.updated_at
        work.taken.append(there)
        return True

    def _notice_move(self, before: Item, after: Item) -> None:
        """Learn whether a move changes `updatedAt`: only an old item's unchanged one proves that it doesn't."""
        if before.updated_at == after.updated_at and self.age(before) > YOUNG:
            self.moves_keep_updated_at = True

    def age(self, item: Item) -> float:
        """Seconds since the item's `updatedAt`, by the server's clock."""
        return time.time() + self._client.server_time_offset - item.updated_ns / 1e9

    def _promote(self, work: Transaction) -> bool:
        """Move H to the target; False: the target has to be looked at again (R5)."""
        work.check()
        save, item = work.save, work.item
        assert item is not None
        was = work.replaced()
        lifecycle = save.lifecycle or (was.lifecycle if was else item.lifecycle)
        permission = save.permission or (was.permission if was else item.permission)
        if save.kind is SaveKind.RENAME:
            permission = item.permission
        try:
            answer = self._client.update(
                save.staged_id,
                path=save.target,
                lifecycle=lifecycle if lifecycle != item.lifecycle else None,
                permission=permission if permission != item.permission else None,
            )
        except PathExistsError:
            return False
        except NoDirectoryError:
            self._stager.make_directory(names.parent(save.target))
            return False
        except NotFoundError:
            self._staged_gone(work)
            return True
        except AnswerLostError:
            self._unanswered.note(save.staged_id)
            return not self._look_at_staged(work)
        self._promoted(work, answer, adopted=not work.resent)
        return True

    def _look_at_staged(self, work: Transaction) -> bool:
        """Judge a lost promote by getting H (R6). True: H is where it was, go on; False: it was dealt with."""
        save = work.save
        for aside in [aside for aside in work.asides if not aside.moved]:
            self._look_at_aside(work, aside)
        try:
            item = self._client.get(save.staged_id)
        except NotFoundError:
            self._staged_gone(work)
            return False
        if self._unmoved(work, item):
            work.item = item
            work.unsure, work.resent = False, True
            return True
        self._promoted(work, item, adopted=False)
        return False

    def _unmoved(self, work: Transaction, item: Item) -> bool:
        save = work.save
        if save.kind is SaveKind.RENAME:
            # Source and target may have one last component: then only the whole path tells.
            return item.path != save.target and names.basename(item.path) == names.basename(save.source)
        return item.path != save.target and work.is_staged(item)

    def _look_at_aside(self, work: Transaction, aside: Aside) -> None:
        aside.unsure_until = self._unanswered.note(aside.id)
        try:
            item = self._client.get(aside.id)
        except NotFoundError:
            return
        if names.basename(item.path) == aside.name:
            aside.moved = True
            aside.size, aside.updated_at = item.size, item.updated_at

    def _staged_gone(self, work: Transaction) -> None:
        """H vanished: stage again from the local bytes; without them the save can't be done."""
        save = work.save
        if save.kind is SaveKind.RENAME or (save.kind is SaveKind.SAVE and work.local is None):
            undo(self._client, self._journal, work, "the staged item vanished from the server", errno.ENOENT)
            raise NotFoundError(
                f"{save.source or save.target} is not on the server any more", endpoint="update"
            )
        save.tid = save.staged_id = ""
        work.item = None
        work.unsure = work.resent = False
        work.advance(self._journal, State.STAGING)

    def _promoted(self, work: Transaction, item: Item, *, adopted: bool) -> None:
        before, work.item = work.item, item
        work.save.staged_id = item.id
        self._placed(work, before, item, adopted)

    # -- helpers

    def _look(self, path: str) -> Finding:
        return Finding(self._client.find(path), time.monotonic())

    def _fresh(self, finding: Finding) -> bool:
        """True if this answer may still be acted on (R8)."""
        usual = self._client.health.latency or 0.0
        return time.monotonic() - finding.answered <= max(_FRESH, usual)

    def _start_learning(self, work: Transaction) -> None:
        """Where timestamps will not do to judge the base, fetch its bytes while H is being staged (R1).

        What is read now are the base's bytes only if a write of the job since it was opened would show.
        """
        base, item = work.save.base, work.base_item
        if not base.id or base.sha256 or item is None or item.is_dir or work.learning is not None:
            return
        if self._fine_clock(base.updated_at) if base.young else not self.moves_keep_updated_at:
            work.learning = self._pool.submit(self._read, item)

    def _read(self, item: Item) -> tuple[str, float]:
        """The hash of an item's bytes, "" if they can't be had, and when they had been read (monotonic seconds)."""
        try:
            return self._learn(item), time.monotonic()
        except (ApiError, OSError) as error:
            log.info("%s: what is replaced could not be read, both will be kept: %s", item.path, error)
            return "", 0.0

    def _learned(self, work: Transaction, there: Item, finding: Finding) -> bool:
        """Adopt the hash of the base's bytes, if what stands at the target still is that version (R1).

        False if that can't be told from `finding`, which is older than the reading: look again.
        """
        base = work.save.base
        if there.id != base.id or there.updated_at != base.updated_at:
            return True
        if work.learning is None:
            # Taken up from the journal: nobody has read yet what it replaces.
            work.base_item = there
            self._start_learning(work)
        if work.learning is None:
            return True
        digest, read = work.learning.result()
        if digest and finding.answered < read:
            return False
        if digest and there.size in (None, base.size):
            base.sha256 = digest
        return True

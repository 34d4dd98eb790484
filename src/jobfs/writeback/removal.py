"""Deleting: a file, an open file, a directory; never what the user did not see (semantics.md section 4, R10, R12)."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from jobfs import names
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    BadRequestError,
    FsError,
    JobfsError,
    NoDirectoryError,
    NotFoundError,
    PathExistsError,
    UnavailableError,
)
from jobfs.nodes import Item
from jobfs.writeback.records import Aside, Attempt, Fate, Record, Removed, Save, SaveKind, State
from jobfs.writeback.transaction import Transaction

if TYPE_CHECKING:
    from jobfs.writeback.engine import WriteBack

log = logging.getLogger("jobfs.writeback")

_LOOKS = 8
#: Seconds until a removed directory is looked at again in which something of this mount is on its way out.
_AGAIN = 1.0


class Removals:
    """Deletes items, and remembers what is being deleted."""

    def __init__(self, engine: WriteBack) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._removed: dict[str, Removed] = {}
        #: Items set aside by an unlink, from before the request until the finisher knows them.
        self._leaving: set[str] = set()
        #: Called before an item is deleted: gives its aliases here their own bytes, or raises ApiError.
        self.spare: Callable[[str], None] = lambda item_id: None
        #: Whether the item at this name has an alias here.
        self.aliased: Callable[[str], bool] = lambda path: False
        #: Called when items were replaced at their names: their aliases here need nothing but their bytes.
        self.replaced: Callable[[set[str]], None] = lambda item_ids: None

    def known(self) -> set[str]:
        """Ids of items that are on their way out."""
        with self._lock:
            return set(self._removed) | self._leaving

    # -- files

    def delete(self, item: Item) -> None:
        """Delete the item that was seen at its path at most 1 s ago; if it is gone, look for another one there (R10).

        No request is sent again without another look: meanwhile the job may have renamed the item, or made another one
        where ours was deleted without an answer. Raises ApiError.
        """
        engine, lost = self._engine, False
        gone: set[str] = set()
        deadline = time.monotonic() + engine.timeout
        for attempt in range(_LOOKS):
            try:
                engine.client.delete(item.id, once=True)
                return self._deleted(item)
            except AnswerLostError:
                lost = True
            except NotFoundError:
                if lost:
                    return self._deleted(item)
                gone.add(item.id)
                engine.namespace.forget(item)
            except UnavailableError as error:
                _wait(error, attempt, deadline)
            there = engine.namespace.lookup(item.path, max_age=0.0)
            if there is None or there.is_dir or there.id in gone:
                return None
            if lost and there.id != item.id:
                return self._deleted(item)
            item = there
        raise UnavailableError(f"{item.path} can't be deleted: no answer", endpoint="delete")

    def _deleted(self, item: Item) -> None:
        self._engine.namespace.forget(item)
        self._engine.memory.lose(item.id)

    def set_aside(self, item: Item, fate: Fate = Fate.RETURN) -> Transaction:
        """Take an item out of the job's sight; `fate` is what a crash makes of it until `finish`, or `judge_later`.

        Its aside is not `moved` if the item was gone. Raises ApiError, FsError(ENOSPC, EIO): then it stays, or comes back.
        """
        engine = self._engine
        save = Save(engine.journal.next_seq(), SaveKind.REMOVE, item.path, State.CANCELLED, made=time.time())
        work = Transaction(save)
        tid = names.new_transaction_id()
        path = names.hidden_path(item.path, engine.mount, tid, names.Role.ASIDE)
        aside = Aside(
            item.id, save.seq, names.basename(path), path=path, kind=item.kind, fate=fate, size=item.size,
            updated_at=item.updated_at, lifecycle=item.lifecycle, permission=item.permission,
            unsure_until=engine.unanswered.until(item.id),
        )  # fmt: skip
        work.asides.append(aside)
        with self._lock:
            self._leaving.add(item.id)
        try:
            engine.journal.write(save, aside, Attempt(tid, save.seq, time.time()))
            engine.journal.sync()
            answer = self._move(item, aside)
        except FsError:
            self._stays(work)
            raise
        except NotFoundError:
            self._stays(work)
            engine.namespace.forget(item)
            return work
        except BadRequestError:
            self._stays(work)
            raise
        except ApiError:
            # It may have been carried out: whoever is told that it failed gets the name back.
            aside.fate = Fate.RETURN
            aside.unsure_until = time.time() + engine.lifetime
            self._note(aside)
            engine.namespace.touch(item.path)
            self.judge_later(work)
            raise
        work.taken.append(item)
        aside.moved = True
        aside.size, aside.updated_at = answer.size, answer.updated_at
        self._note(aside)
        engine.namespace.forget(item)
        return work

    def _stays(self, work: Transaction) -> None:
        """Nothing was set aside, or it is back: no record stays."""
        self._note(gone=[work.save, *work.asides])
        self.passed_on(work.asides)

    def _note(self, *records: Record, gone: Iterable[Record] = ()) -> None:
        """Write what the server's answer has settled: without it the next mount asks again, so a full disk fails nobody."""
        try:
            self._engine.journal.write(*records, gone=gone)
        except FsError as error:
            log.warning("%s", error)

    def judge_later(self, work: Transaction) -> None:
        """What was set aside is for the finisher, by its fate: from now on only that knows it."""
        self._engine.finisher.add_later(work)
        self.passed_on(work.asides)

    @contextlib.contextmanager
    def removing(self, item: Item) -> Iterator[None]:
        """What is done meanwhile takes the item's name from it: then it is deleted; failed or killed, it has the name again.

        Raises ApiError, FsError(ENOSPC, EIO).
        """
        work = self.set_aside(item)
        if not work.asides[0].moved:
            yield
            return
        try:
            yield
        except BaseException:
            self._give_name_back(work, item)
            raise
        self.finish(work)

    def _give_name_back(self, work: Transaction, item: Item) -> None:
        try:
            answer = self._engine.client.update(item.id, path=item.path, once=True)
        except ApiError as error:
            log.info("%s: put back later: %s", item.path, error)
            self.judge_later(work)
            return
        self._engine.bases.carry(item, answer)
        self._engine.namespace.publish(answer)
        self._stays(work)

    def passed_on(self, asides: Iterable[Aside]) -> None:
        """They are no longer known here: nothing was set aside, or whoever is to judge them knows them by now."""
        with self._lock:
            self._leaving -= {aside.id for aside in asides}

    def _move(self, item: Item, aside: Aside) -> Item:
        """Move the item to its hidden name; not sent again without a look. Raises NotFoundError if it has another name by now."""
        deadline = time.monotonic() + self._engine.timeout
        for attempt in range(_LOOKS):
            try:
                return self._engine.client.update(item.id, path=aside.path, once=True)
            except AnswerLostError:
                aside.unsure_until = self._engine.unanswered.note(item.id)
            except NoDirectoryError:
                if attempt:
                    raise
                self._engine.stager.make_directory(names.parent(item.path))
                continue
            except UnavailableError as error:
                _wait(error, attempt, deadline)
            answer = self._engine.client.get(item.id)
            if names.basename(answer.path) == aside.name:
                return answer
            if answer.path != item.path:
                raise NotFoundError(f"{item.path} was renamed by the job", endpoint="update")
        raise UnavailableError(f"the answers to removing {item.path} are lost", endpoint="update")

    def finish(self, work: Transaction) -> None:
        """The unlink stands: delete the item in the background."""
        for aside in work.asides:
            aside.fate = Fate.DELETE
        self._note(work.save, *work.asides)
        self._engine.finisher.add(work)
        self.passed_on(work.asides)

    # -- directories

    def remove_directory(self, item: Item) -> None:
        """Remove a directory that a fresh listing shows empty (R12): out of the job's reach, looked at again, then deleted.

        Raises FsError(ENOTEMPTY), ApiError.
        """
        engine = self._engine
        self._engine.hiding.conclude_under(item.path)
        engine.finisher.idle(engine.timeout)
        if engine.namespace.children(item.path, max_age=1.0):
            raise FsError(errno.ENOTEMPTY)
        if self._hides(item.path):
            engine.namespace.refresh()
            if self._hides(item.path):
                raise FsError(errno.ENOTEMPTY)
        path = names.hidden_path(item.path, engine.mount, names.new_transaction_id(), names.Role.REMOVED)
        record = Removed(item.id, names.basename(path), item.path)
        with self._lock:
            self._removed[item.id] = record
        try:
            engine.journal.write(record)
            engine.journal.sync()
            self._move(item, Aside(item.id, 0, record.name, path=path))
        except (NotFoundError, BadRequestError, FsError):
            with contextlib.suppress(FsError):
                self._forget(record)
            raise
        except ApiError:
            # It may have been carried out: then it is looked at as one that an earlier run left.
            self.restore([record])
            engine.namespace.touch(item.path)
            raise
        record.moved = True
        engine.namespace.forget(item)
        engine.memory.lose(item.id)
        engine.background(self.sweep)

    def _hides(self, path: str) -> bool:
        """True if hidden items lie there that are not this mount's own on their way out."""
        hidden = self._engine.namespace.hidden()
        return any(names.under(item.path, path) and not self._leaves(item) for item in hidden)

    def _leaves(self, item: Item) -> bool:
        """True for a hidden item of this mount's that an open record is about to delete or to name, or a later listing (R4)."""
        parts = names.parse_hidden(names.basename(item.path))
        if parts is None or parts.mount != self._engine.mount:
            return False
        left = parts.role is names.Role.STAGED and self._engine.journal.tombstone(parts.transaction)
        return left or self._engine.finisher.explained(item, parts)

    @property
    def due(self) -> bool:
        """True if a removed directory waits to be looked at."""
        with self._lock:
            return any(r.moved and r.unsure_until <= time.time() for r in self._removed.values())

    def sweep(self) -> None:
        """One listing for all directories that were moved away: still empty: delete; else back to the name (R12)."""
        with self._sweeping:
            with self._lock:
                now = time.time()
                batch = [r for r in self._removed.values() if r.moved and r.unsure_until <= now]
            if not batch:
                return
            try:
                self._engine.namespace.refresh()
                hidden = list(self._engine.namespace.hidden())
                # The innermost first: they lie in the others.
                for record in sorted(batch, key=lambda record: -record.path.count("/")):
                    self._sweep_one(record, hidden)
            except JobfsError as error:
                log.info("removed directories are looked at again later: %s", error)

    def _sweep_one(self, record: Removed, hidden: list[Item]) -> None:
        client = self._engine.client
        try:
            item = client.get(record.id)
            if names.basename(item.path) != record.name:
                # Someone gave it another name: it is theirs now (R7).
                self._forget(record)
                return
            inside = [other for other in hidden if names.under(other.path, item.path)]
            if not all(self._leaves(other) for other in inside):
                self._give_back(record, item)
            elif inside:
                # What is set aside in there still has to be judged.
                record.unsure_until = time.time() + _AGAIN
            else:
                client.delete(record.id, once=True)
                self._engine.namespace.forget(item)
                self._forget(record)
                hidden[:] = [other for other in hidden if other.id != item.id]
        except NotFoundError:
            self._forget(record)
        except AnswerLostError:
            record.unsure_until = time.time() + self._engine.lifetime
            raise

    def _give_back(self, record: Removed, item: Item) -> None:
        # What it lies in may have been renamed meanwhile.
        back = names.join(names.parent(item.path), names.basename(record.path))
        for attempt in range(_LOOKS):
            path = back if attempt == 0 else names.beside(back, "conflict", attempt=attempt - 1)
            try:
                self._engine.namespace.publish(self._engine.client.update(item.id, path=path))
            except PathExistsError:
                continue
            log.warning(
                "%s: the job put something into it while it was removed; it is back as %s", back, path
            )
            self._forget(record)
            return

    def _forget(self, record: Removed) -> None:
        with self._lock:
            # A directory that stayed where it was may be on its way out a second time: that is another record.
            if self._removed.get(record.id) is record:
                self._engine.journal.write(gone=[record])
                del self._removed[record.id]

    def restore(self, records: list[Removed]) -> None:
        """Take up what was left half done; looked at once no unanswered request of it can still be carried out."""
        with self._lock:
            for record in records:
                record.unsure_until = time.time() + self._engine.lifetime
                record.moved = True
                self._removed[record.id] = record


def _wait(error: UnavailableError, attempt: int, deadline: float) -> None:
    """Pause before a request is tried again, as long as the server asks for; raises `error` if that is after the deadline."""
    pause = error.wait + random.uniform(0.05, 0.1) * 2**attempt
    if time.monotonic() + pause > deadline:
        raise error
    time.sleep(pause)

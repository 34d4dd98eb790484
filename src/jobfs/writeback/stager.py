"""Staging: the new content becomes a hidden item beside its target (save-protocol.md, the state `staging`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from jobfs import names
from jobfs.api import Client
from jobfs.errors import (
    AnswerLostError,
    ApiError,
    BadRequestError,
    ContractError,
    NoDirectoryError,
    PathExistsError,
    UnavailableError,
)
from jobfs.nodes import Item, Permission
from jobfs.writeback import disk
from jobfs.writeback.journal import Journal
from jobfs.writeback.records import Attempt, Base, Save, SaveKind, State
from jobfs.writeback.transaction import Cancelled, Transaction

log = logging.getLogger("jobfs.writeback")

#: Most creates in one run whose answers are lost before the run gives up for now.
_CREATES = 4


class Stager:
    """Creates hidden items, and finds those whose answers were lost. Every method may be called from any thread."""

    def __init__(
        self,
        client: Client,
        journal: Journal,
        mount: str,
        superseded: Callable[[str], None],
        lifetime: float = 0.0,
    ) -> None:
        """`superseded(path)`: a create at this hidden path was given up, but may still be carried out.

        `lifetime` in seconds (R7).
        """
        self._client = client
        self._journal = journal
        self._mount = mount
        self._superseded = superseded
        self._lifetime = lifetime
        #: Until when what an attempt of `make_directory` made may be on its way, in seconds since the epoch.
        self._making: dict[str, float] = {}

    def begin(self, work: Transaction) -> None:
        """A new transaction id for each attempt to create, known to the journal before it is sent (w).

        Raises Cancelled if there is nothing whole to create it from: then no fsync ever acknowledged it.
        """
        if work.save.kind is SaveKind.SAVE and work.local is None:
            self._drop(work)
        if work.suspect:
            self._recover(work)
        work.save.tid = names.new_transaction_id()
        work.record(self._journal, Attempt(work.save.tid, work.save.seq, time.time()))

    def _drop(self, work: Transaction) -> None:
        log.warning("%s: a save whose bytes are not whole on this disk is dropped", work.save.target)
        # With no base: what stands at the target is not touched.
        work.save.base = Base()
        work.advance(self._journal, State.CANCELLED)
        raise Cancelled

    def _recover(self, work: Transaction) -> None:
        """The power went before these bytes were known to be on the disk: they get a name of their own, never the target's."""
        save, target = work.save, work.save.target
        path = self._free_name(target)
        with work.lock:
            work.check()
            save.target, save.base, save.boot = path, Base(), disk.BOOT
            self._journal.write(save)
        work.suspect = False
        log.warning("%s: closed just before the power went; what the disk has is kept as %s", target, path)

    def _free_name(self, target: str) -> str:
        attempt = 0
        while self._client.find(path := names.beside(target, "recovered", attempt=attempt)):
            attempt += 1
        return path

    def create(self, work: Transaction) -> Item:
        """Create H at the hidden name of the attempt that was begun; a lost answer is looked for, then created again.

        Raises Cancelled, ApiError.
        """
        save = work.save
        permission = save.permission or Permission.READ_WRITE
        errors: list[ApiError] = []
        for _ in range(_CREATES):
            path = self._path(save)
            try:
                if save.kind is SaveKind.MKDIR:
                    return self._client.create_directory(path, permission)
                assert work.local is not None
                staged = self._client.create_file(path, work.local.path, save.size, permission)
                if staged.size not in (None, save.size):
                    raise ContractError(
                        f"create stored {staged.size} bytes of {save.size}", endpoint="create"
                    )
                return staged
            except (AnswerLostError, BadRequestError) as error:
                found = self.find(save)
                if found is not None:
                    return found
                if isinstance(error, NoDirectoryError):
                    self.make_directory(names.parent(save.target))
                elif isinstance(error, BadRequestError):
                    raise
                errors.append(error)
                if isinstance(error, AnswerLostError):
                    self._superseded(path)
                self.begin(work)
        above = names.parent(save.target)
        insists = all(isinstance(error, NoDirectoryError) for error in errors) and self._is_there(above)
        if insists or isinstance(errors[-1], AnswerLostError):
            raise errors[-1]
        raise UnavailableError(f"{above} keeps being removed", endpoint="create")

    def find(self, save: Save) -> Item | None:
        """The item at the hidden name of this attempt, if it is there with the right size. Raises ApiError."""
        for item in self._client.find(self._path(save)):
            if save.kind is SaveKind.MKDIR or item.size in (None, save.size):
                return item
        return None

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it, that the job removed under a save; hidden and promoted (R9). Raises ApiError.

        Straight at its path it might become the second of two on a server that allows that.
        """
        if self._is_there(path):
            return
        tid = names.new_transaction_id()
        # A tombstone from the start: what is left over of it is deleted by a later listing (R4).
        self._journal.write(Attempt(tid, 0, time.time()))
        hidden = names.hidden_path(path, self._mount, tid, names.Role.STAGED)
        # Nobody who has seen it under that name may delete it once it has its own, with what is in it by then (R12).
        self._making[tid] = math.inf
        try:
            self._promote_directory(hidden, path)
            del self._making[tid]
        finally:
            if tid in self._making:
                self._making[tid] = time.time() + self._lifetime

    def _is_there(self, path: str) -> bool:
        return not path or any(item.is_dir for item in self._client.find(path))

    def _promote_directory(self, hidden: str, path: str) -> None:
        try:
            made = self._client.create_directory(hidden, Permission.READ_WRITE)
        except NoDirectoryError:
            self.make_directory(names.parent(path))
            made = self._client.create_directory(hidden, Permission.READ_WRITE)
        try:
            self._client.update(made.id, path=path)
        except PathExistsError:
            self._client.delete(made.id)

    def making(self) -> set[str]:
        """Attempts of `make_directory` that are under way, or may still be carried out."""
        now = time.time()
        return {tid for tid, until in list(self._making.items()) if until > now}

    def _path(self, save: Save) -> str:
        return names.hidden_path(save.target, self._mount, save.tid, names.Role.STAGED)

"""Renames: what takes which name, on the server and on this machine (vfs/semantics.md 4, rename)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import names
from jobfs.errors import FsError, JobfsError, NotFoundError
from jobfs.nodes import Item, Kind
from jobfs.save.context import Context
from jobfs.save.items import ItemRequests, removal_of
from jobfs.save.queue import Queue
from jobfs.save.replace import Replace
from jobfs.state import Change, File, State, edit
from jobfs.state.localbytes import Local
from jobfs.state.processes import Process
from jobfs.state.records import Base, Record, Stage, Verb
from jobfs.state.store import Edit
from jobfs.trial.questions import carried

log = logging.getLogger("jobfs.save")

#: Most items that are looked at to see whether they moved with their directory.
_ASKED = 3
#: Seconds until a file that was renamed to a scratch name leaves the server.
SCRATCH_DELAY = 3.0


class Victim(NamedTuple):
    """What loses its name to something else: its base, its item and File, and the Change that was to remove it."""

    base: Base = Base()
    item: Item | None = None
    file: File | None = None
    pending: Change | None = None

    @property
    def due(self) -> float:
        """When the unsent bytes that lose the name were due, in monotonic seconds; 0.0 if none wait."""
        change = self.file.change if self.file is not None else None
        if change is None or change.verb is not Verb.PUT or change.begun:
            return 0.0
        return change.due


class Rename:
    """One for a mount. The caller holds the names (`Reservations`)."""

    def __init__(self, context: Context, items: ItemRequests, replace: Replace, queue: Queue) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._namespace = context.namespace
        self._items = items
        self._replace = replace
        self._queue = queue

    def victim(self, path: str, node: File | Item | None, process: Process | None = None) -> Victim:
        """What loses this name if `process` gives it to something else. Raises nothing.

        `node` is what is shown there, at rest.
        """
        if isinstance(node, Item):
            return Victim(self._context.base_of(node, process=process), node)
        if node is not None:
            return Victim() if node.stays else Victim(node.base, node.item, node)
        pending = self._state.changes.pending(path)
        if pending is None:
            return Victim()
        base = self._context.base_read(pending.item, process) if pending.item is not None else None
        return Victim(base or pending.base, pending.item, None, pending)

    def replaced(self, victim: Victim, over: File | None = None) -> None:
        """Something else has the name: let go of the victim, and of `over`, a file of this machine only that had it."""
        for file in (over, victim.file):
            if file is not None:
                self._state.unname(file)
        if victim.pending is not None:
            self._state.end(victim.pending)

    def take_place(self, file: File, path: str, victim: Victim, over: File | None = None) -> None:
        """A File that only this machine has gets the name of what it replaces, in one step (vfs/semantics.md 4, rename).

        `over`: a file of this machine only that has the name. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        replaced = (victim.pending, victim.file, over)
        gone: list[Record] = [row for row in replaced if row is not None and row.recorded]
        values: dict[str, Any] = {
            "path": path, "stays": False, "base": victim.base, "refused": "",
            "item_id": victim.item.id if victim.item is not None else "",
        }  # fmt: skip
        with file.lock, self._state.lock:
            self._record(file, values, gone, replaces=bool(gone or victim.base.id))
            self._state.apply(file, **values, item=victim.item)
            if file.change is not None:
                self._state.apply(file.change, target=path)
        due = victim.due
        self.replaced(victim, over)
        self._queue.save(file, by=due)

    def _record(self, file: File, values: dict[str, Any], gone: list[Record], *, replaces: bool) -> None:
        """Write the new name of a File (w), unless the journal has neither the File nor anything that it replaces.

        The caller has the File's lock and the state's. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        local = file.local
        if local is not None and (file.stays or (replaces and not file.generation)):
            # Bytes that were never closed are closed with their new name: they have the place after a death.
            self._state.store.close(file, local, gone=gone, new=True, **values)
        elif file.recorded or replaces:
            self._state.write(edit(file, **values), gone=gone, new=True)

    def move_over(self, item: Item, target: str, victim: Victim) -> Item:
        """Move an item over what stands at `target` (vfs/semantics.md 4, rename). Raises ApiError; then both are back."""
        state, file = self._state, victim.file
        with state.lock:
            for ended in (victim.pending, file.change if file is not None else None):
                if ended is not None:
                    state.end(ended)
            change = state.change(
                Verb.MOVE, target, file, stage=Stage.STAGED, source=item.path, staged_id=item.id, base=victim.base,
                item=item, shows={target: victim.item} if victim.item else {},
            )  # fmt: skip
        try:
            state.write(edit(change), new=True)
            self._queue.commit(change)
        except JobfsError:
            # Whatever the server may have carried out is taken back: both files have their names, or are beside each other.
            self._replace.give_up(change)
            if file is not None:
                if file.written and not file.writing:
                    state.unclosed.add(file)  # its close could not be recorded
                self._queue.save(file)
            self._queue.wake()
            raise
        assert change.item is not None
        self.replaced(victim)
        return change.item

    def stay(
        self,
        node: Item | File,
        old: str,
        new: str,
        attr: dict[str, Any],
        over: File | None,
        source: Path | None = None,
    ) -> None:
        """Rename a file to a scratch name: it is of this machine only, and its item leaves the server in a few seconds.

        `source`: where an item's bytes are; `over`: the file of this machine that had the scratch name. Raises
        FsError(ENOSPC, EIO); then nothing was changed.
        """
        state = self._state
        file = state.open(node) if isinstance(node, Item) else node
        shown = self.victim(old, node)
        copy = None if source is None else state.bytes.new(file.ino, state.journal.next_number(), source)
        values = {"path": new, "stays": True, "item_id": "", "base": Base(), "refused": "", **attr}
        with file.lock, state.lock, _discarded_unless_closed(file, copy):
            local = file.local or copy
            assert local is not None
            # With bytes of its own it was not sent, or a program has begun to write to it.
            leaving = shown if local is copy else Victim(file.base, file.item)
            self._close_as_scratch(file, local, old, leaving, gone=[] if over is None else [over], **values)
            if local is copy and not file.handles:
                local.release()
            state.apply(file, item=None, local=local)
        if over is not None:
            state.unname(over)

    def _close_as_scratch(
        self, file: File, local: Local, old: str, leaving: Victim, *, gone: list[Record], **values: Any
    ) -> None:
        """Close a file's bytes under a scratch name (w), end its save, and plan the removal of its item, `leaving`, at `old`.

        Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        state, base = self._state, leaving.base
        removal = removal_of(state, old, base, leaving.item) if base.id else None
        # After a kill the server's version must not come back alone: it is older than the unsent bytes.
        older = [edit(removal)] if removal is not None and file.unsaved else []
        try:
            state.store.close(file, local, *older, gone=gone, new=True, **values)
        except FsError:
            if removal is not None:
                state.end(removal)
            raise
        if file.change is not None:
            state.end(file.change)
        if removal is not None:
            self._queue.add(removal, SCRATCH_DELAY)

    # -- directories

    def rename_directory(self, item: Item, new: str) -> None:
        """Rename a directory with one request; the caller holds both names, and nothing runs below them.

        Raises ApiError, FsError(EXDEV) on a server that moves a directory without what is in it: `mv` copies then.
        """
        old = item.path
        inside = [other for other in self._namespace.subtree(old) if other.path != old]
        if inside and self._context.server.facts.moves_carry is False:
            raise FsError(errno.EXDEV)
        values = {"stage": Stage.STAGED, "source": old, "staged_id": item.id, "direct": True}
        with self._state.running(Verb.MOVE, new, **values) as change:
            try:
                self._state.write(edit(change), new=True)
                moved = self._items.update(item, path=new)
                if not self._carries(inside[:_ASKED], new):
                    self._items.update(moved, path=old)
                    raise FsError(errno.EXDEV)
                repath(self._state, change, inside)
                self._state.readers.renamed_directory(old, new)
                self._context.renamed_directory(old, new)
            except BaseException:
                self._state.end(change)
                raise

    def _carries(self, inside: list[Item], new: str) -> bool:
        """False if this server moves a directory without what is in it: the first one that is not empty shows that."""
        if inside and self._context.server.facts.moves_carry is None:
            with contextlib.suppress(JobfsError):  # the directory itself is renamed all the same
                self._context.server.learn(moves_carry=carried(self._client, inside, new))
        return not inside or self._context.server.facts.moves_carry is not False


@contextlib.contextmanager
def _discarded_unless_closed(file: File, copy: Local | None) -> Iterator[None]:
    """Discard a copy of an item's bytes unless the journal has it as the File's. The caller has the File's lock."""
    try:
        yield
    finally:
        if copy is not None and file.generation != copy.generation:
            copy.discard()


def repath(state: State, rename: Change, items: Sequence[Item] = ()) -> None:
    """Give all below a renamed directory its new path, in the journal write that ends the rename. Raises FsError(EIO).

    `items`: the server's items below it, as far as they are known.
    """
    with state.lock:
        edits = [*_displaced(state, rename, items), *_moved_along(state, rename)]
        state.write(*(step for step in edits if step[0].recorded), gone=[rename])
        for record, values in edits:
            if not record.recorded:
                state.apply(record, **values)


def _displaced(state: State, rename: Change, items: Sequence[Item]) -> Iterator[Edit]:
    """Rename files that are kept of a deleted directory, and whose paths the renamed one brings (section 4.50).

    Two Files of one path must not be recorded: only one is shown, and after the next mount it may be the older one.
    """
    below: list[File | Item] = [*state.index.beneath(rename.source), *items]
    arriving = {_moved(node.path or "", rename) for node in below}
    taken = arriving | {file.path or "" for file in state.index.files()}
    for file in state.index.beneath(rename.target):
        if file.path not in arriving or not _has_bytes(file):
            continue
        path = _free_beside(file.path, taken)
        taken.add(path)
        log.warning("%s: another version of it is kept as %s", file.path, path)
        yield edit(file, path=path)
        if file.change is not None:
            yield edit(file.change, target=path)


def _moved_along(state: State, rename: Change) -> Iterator[Edit]:
    """Give the Files and Changes below the old name of a renamed directory the paths that they have after the rename."""
    for file in state.index.beneath(rename.source):
        yield edit(file, path=_moved(file.path or "", rename))
    for change in _changes_below(state, rename):
        yield edit(change, **_moved_names(change, rename))


def _has_bytes(file: File) -> bool:
    """Return whether a File is a file or link of which only this machine has the present content."""
    return file.kind is Kind.FILE and (file.here or file.generation > 0)


def _free_beside(path: str, taken: set[str]) -> str:
    """Return the first name for a second version that is not taken."""
    tried = (names.beside(path, "conflict", attempt=number) for number in itertools.count())
    return next(name for name in tried if name not in taken)


def _changes_below(state: State, rename: Change) -> list[Change]:
    """The other Changes whose targets are below the old name of a renamed directory."""
    changes = (change for change in state.changes.values() if change is not rename)
    return [change for change in changes if names.under(change.target, rename.source)]


def _moved(path: str, rename: Change) -> str:
    """The path that `path` has after the rename of a directory."""
    below = names.under(path, rename.source)
    return names.moved(path, rename.source, rename.target) if below else path


def _moved_names(change: Change, rename: Change) -> dict[str, Any]:
    """The fields of a Change below a renamed directory that name paths, as they are after the rename."""
    shows = {_moved(path, rename): item for path, item in change.shows.items()}
    return {"target": _moved(change.target, rename), "source": _moved(change.source, rename), "shows": shows}


def find_renamed(context: Context, change: Change) -> None:
    """Ask the server whether a directory was renamed just before the last mount ended. Raises ApiError: nothing is shown."""
    with contextlib.suppress(NotFoundError):
        if context.client.get(change.staged_id).path == change.target:
            repath(context.state, change)
            return
    context.state.end(change)

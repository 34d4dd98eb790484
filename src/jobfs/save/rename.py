"""Renames, on the server and on this machine, and what they displace (vfs/semantics.md 4, Rename)."""

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
from jobfs.save.items import ItemRequests, plan_removal
from jobfs.save.queue import ChangeQueue
from jobfs.save.replace import Replacer
from jobfs.state import Change, File, State, edit
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.processes import Process
from jobfs.state.records import Base, Record, Stage, Verb
from jobfs.state.store import Edit
from jobfs.trial.questions import check_moved_along

log = logging.getLogger("jobfs.save")

#: Most items that are checked to see whether they moved with their directory.
_ASKED = 3
#: Seconds until the item of a file that was renamed to a scratch name is deleted.
SCRATCH_DELAY = 3.0


class Displaced(NamedTuple):
    """What loses its name to something else: its base, its item and File, and a removal of the item that has not started."""

    base: Base = Base()
    item: Item | None = None
    file: File | None = None
    pending_removal: Change | None = None

    @property
    def due(self) -> float:
        """When the displaced File's unsent bytes are due, in monotonic seconds; 0.0 if none wait to be sent."""
        change = self.file.change if self.file is not None else None
        if change is None or change.verb is not Verb.PUT or change.started:
            return 0.0
        return change.due


class Renamer:
    """The renames of a mount. The caller holds the names (`Reservations`)."""

    def __init__(self, context: Context, items: ItemRequests, replacer: Replacer, queue: ChangeQueue) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._namespace = context.namespace
        self._items = items
        self._replacer = replacer
        self._queue = queue

    def find_displaced(
        self, path: str, node: File | Item | None, process: Process | None = None
    ) -> Displaced:
        """Return what loses the name `path` if `process` gives it to something else. Raises nothing.

        `node` is shown at `path` now, and no save of it is in flight.
        """
        if isinstance(node, Item):
            return Displaced(self._context.base_of(node, process=process), node)
        if node is not None:
            return Displaced() if node.never_sent else Displaced(node.base, node.item, node)
        pending = self._state.changes.find_unstarted(path)
        if pending is None:
            return Displaced()
        base = self._context.base_by_last_read(pending.item, process) if pending.item is not None else None
        return Displaced(base or pending.base, pending.item, None, pending)

    def release_displaced(self, displaced: Displaced, overwritten: File | None = None) -> None:
        """Unlink the File and end the removal of `displaced`, whose name something else has; unlink `overwritten`, too.

        `overwritten`: a local only File that had the name. Raises FsError(EIO).
        """
        for file in (overwritten, displaced.file):
            if file is not None:
                self._state.unlink_file(file)
        if displaced.pending_removal is not None:
            self._state.end_change(displaced.pending_removal)

    def rename_unsent_over(
        self, file: File, path: str, displaced: Displaced, overwritten: File | None = None
    ) -> None:
        """Rename a File that the server does not have to `path`, over `displaced`, in one step (vfs/semantics.md 4, Rename).

        `overwritten`: a local only File that has the name. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        replaced = (displaced.pending_removal, displaced.file, overwritten)
        removed: list[Record] = [row for row in replaced if row is not None and row.recorded]
        values: dict[str, Any] = {
            "path": path, "never_sent": False, "base": displaced.base, "refused": "",
            "item_id": displaced.item.id if displaced.item is not None else "",
        }  # fmt: skip
        with file.lock, self._state.lock:
            self._close_or_write_new_name(file, values, removed, replaces=bool(removed or displaced.base.id))
            self._state.apply_in_memory(file, **values, item=displaced.item)
            if file.change is not None:
                self._state.apply_in_memory(file.change, target=path)
        due = displaced.due
        self.release_displaced(displaced, overwritten)
        self._queue.schedule(file, at_latest=due)

    def _close_or_write_new_name(
        self, file: File, values: dict[str, Any], removed: list[Record], *, replaces: bool
    ) -> None:
        """Write the new name of a File to the journal, and close its unclosed bytes if the name must show them. Write nothing
        if the journal has neither the File nor anything that it replaces.

        The caller has the File's lock and the state's. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        local = file.local
        if local is not None and (file.never_sent or (replaces and not file.generation)):
            # Close unclosed bytes with their new name: after a kill, they are what the name shows.
            self._state.store.close_generation(file, local, remove=removed, is_new=True, **values)
        elif file.recorded or replaces:
            self._state.write(edit(file, **values), remove=removed, is_new=True)

    def move_item_over(self, item: Item, target: str, displaced: Displaced) -> Item:
        """Move an item to `target`, over `displaced` (vfs/semantics.md 4, Rename); return the moved item.

        Raises ApiError, FsError; then cleanup moves both items back.
        """
        state, file = self._state, displaced.file
        with state.lock:
            for ended in (displaced.pending_removal, file.change if file is not None else None):
                if ended is not None:
                    state.end_change(ended)
            change = state.plan_change(
                Verb.MOVE, target, file, stage=Stage.STAGED, source=item.path, staged_id=item.id, base=displaced.base,
                item=item, shows={target: displaced.item} if displaced.item else {},
            )  # fmt: skip
        try:
            state.write(edit(change), is_new=True)
            self._queue.run_until_finished(change)
        except JobfsError:
            # Cleanup undoes what the server may have carried out: both files get their names back, or are kept side by side.
            self._replacer.abandon_change(change)
            if file is not None:
                if file.has_unclosed_bytes and not file.is_open_for_writing:
                    state.unclosed.add(file)  # its close could not be recorded
                self._queue.schedule(file)
            self._queue.wake()
            raise
        assert change.item is not None
        self.release_displaced(displaced)
        return change.item

    def make_local_only(
        self,
        node: Item | File,
        old: str,
        new: str,
        attr: dict[str, Any],
        overwritten: File | None,
        source: Path | None = None,
    ) -> None:
        """Rename a file to a scratch name: it becomes local only, and its item is deleted after `SCRATCH_DELAY`.

        `source`: the file with an item's bytes; `attr`: the attributes to keep; `overwritten`: the File that had the scratch
        name. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        state = self._state
        file = state.get_or_add_file(node) if isinstance(node, Item) else node
        shown = self.find_displaced(old, node)
        copy = None if source is None else state.bytes.create(file.ino, state.journal.next_number(), source)
        values = {"path": new, "never_sent": True, "item_id": "", "base": Base(), "refused": "", **attr}
        with file.lock, state.lock, _discard_unless_closed(file, copy):
            local = file.local or copy
            assert local is not None
            # A File with local bytes is unsent, or a program has just begun to write to it: the item that leaves is its base.
            leaving = shown if local is copy else Displaced(file.base, file.item)
            self._close_as_scratch(
                file, local, old, leaving, removed=[] if overwritten is None else [overwritten], **values
            )
            if local is copy and not file.handles:
                local.release()
            self._show_local_bytes(file, local)
        if overwritten is not None:
            state.unlink_file(overwritten)

    def _show_local_bytes(self, file: File, local: LocalGeneration) -> None:
        """Let a local only File, and the handles opened under its old name, show its local bytes, not a version of the server."""
        self._state.apply_in_memory(file, item=None, local=local)
        for handle in file.handles:
            handle.item = None

    def _close_as_scratch(
        self,
        file: File,
        local: LocalGeneration,
        old: str,
        displaced: Displaced,
        *,
        removed: list[Record],
        **values: Any,
    ) -> None:
        """Close a File's bytes under a scratch name (w), end its save, and plan the removal of its item from `old`.

        `displaced`: that item and its base. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        state, base = self._state, displaced.base
        removal = plan_removal(state, old, base, displaced.item) if base.id else None
        # Recorded at once where bytes are unsent: after a kill, `old` must not show the server's version, which is older.
        recorded = [edit(removal)] if removal is not None and file.needs_upload else []
        try:
            state.store.close_generation(file, local, *recorded, remove=removed, is_new=True, **values)
        except FsError:
            if removal is not None:
                state.end_change(removal)
            raise
        if file.change is not None:
            state.end_change(file.change)
        if removal is not None:
            self._queue.add_change(removal, SCRATCH_DELAY)

    # -- directories

    def rename_directory(self, item: Item, new: str) -> None:
        """Rename a directory with one request. The caller holds both names, and no Change is in flight below them.

        Raises ApiError; FsError(EXDEV) if the server moves a directory without the items in it: then `mv` copies.
        """
        old = item.path
        inside = [other for other in self._namespace.subtree(old) if other.path != old]
        if inside and self._context.server.facts.moves_carry is False:
            raise FsError(errno.EXDEV)
        values = {"stage": Stage.STAGED, "source": old, "staged_id": item.id, "direct": True}
        with self._state.plan_for_caller(Verb.MOVE, new, **values) as change:
            try:
                self._state.write(edit(change), is_new=True)
                moved = self._items.update_item(item, path=new)
                if not self._learn_moves_contents(inside[:_ASKED], new):
                    self._items.update_item(moved, path=old)
                    raise FsError(errno.EXDEV)
                update_paths_below(self._state, change, inside)
                self._state.read_log.move_notes_below(old, new)
                self._context.note_directory_rename(old, new)
            except BaseException:
                self._state.end_change(change)
                raise

    def _learn_moves_contents(self, inside: list[Item], new: str) -> bool:
        """Return whether this server moves a directory with its items: the first one that is not empty shows it."""
        if inside and self._context.server.facts.moves_carry is None:
            with contextlib.suppress(JobfsError):  # the directory itself is renamed in any case
                self._context.server.learn(moves_carry=check_moved_along(self._client, inside, new))
        return not inside or self._context.server.facts.moves_carry is not False


@contextlib.contextmanager
def _discard_unless_closed(file: File, copy: LocalGeneration | None) -> Iterator[None]:
    """Discard `copy`, a copy of an item's bytes, unless the block closes it as the File's. The caller has the File's lock."""
    try:
        yield
    finally:
        if copy is not None and file.generation != copy.generation:
            copy.discard()


def update_paths_below(state: State, rename: Change, items: Sequence[Item] = ()) -> None:
    """Give the Files and Changes below a renamed directory their new paths, in the journal write that ends the rename.

    `items`: the server's items below it, as far as they are known. Raises FsError(EIO).
    """
    with state.lock:
        edits = [*_edits_making_way(state, rename, items), *_edits_of_moved_paths(state, rename)]
        state.write(*(step for step in edits if step[0].recorded), remove=[rename])
        for record, values in edits:
            if not record.recorded:
                state.apply_in_memory(record, **values)


def _edits_making_way(state: State, rename: Change, items: Sequence[Item]) -> Iterator[Edit]:
    """Rename the Files of a deleted directory whose paths the files of the renamed directory take (vfs/semantics.md 4.50).

    Two Files with one path must not be recorded: only one would be shown, after the next mount perhaps the older one.
    """
    below: list[File | Item] = [*state.index.local_files_below(rename.source), *items]
    arriving = {_path_after(node.path or "", rename) for node in below}
    taken = arriving | {file.path or "" for file in state.index.all_files()}
    for file in state.index.local_files_below(rename.target):
        if file.path not in arriving or not _has_only_local_bytes(file):
            continue
        path = _free_sibling_path(file.path, taken)
        taken.add(path)
        log.warning("%s: another version of it is kept as %s", file.path, path)
        yield edit(file, path=path)
        if file.change is not None:
            yield edit(file.change, target=path)


def _edits_of_moved_paths(state: State, rename: Change) -> Iterator[Edit]:
    """Yield the edits that give the Files and Changes below the directory's old name their paths after the rename."""
    for file in state.index.local_files_below(rename.source):
        yield edit(file, path=_path_after(file.path or "", rename))
    for change in _changes_below(state, rename):
        yield edit(change, **_fields_after(change, rename))


def _has_only_local_bytes(file: File) -> bool:
    """Return whether a File is a file or link whose present content only this machine has."""
    return file.kind is Kind.FILE and (file.overrides_server or file.generation > 0)


def _free_sibling_path(path: str, taken: set[str]) -> str:
    """Return the first `conflict` path beside `path` that is not taken."""
    tried = (names.second_version_path(path, "conflict", attempt=number) for number in itertools.count())
    return next(name for name in tried if name not in taken)


def _changes_below(state: State, rename: Change) -> list[Change]:
    """Return the other Changes whose targets are below the old name of a renamed directory."""
    changes = (change for change in state.changes.values() if change is not rename)
    return [change for change in changes if names.is_below(change.target, rename.source)]


def _path_after(path: str, rename: Change) -> str:
    """Return the path that `path` has after the rename of a directory."""
    below = names.is_below(path, rename.source)
    return names.path_after_rename(path, rename.source, rename.target) if below else path


def _fields_after(change: Change, rename: Change) -> dict[str, Any]:
    """Return the path fields of a Change below a renamed directory, with their values after the rename."""
    shows = {_path_after(path, rename): item for path, item in change.shows.items()}
    return {
        "target": _path_after(change.target, rename),
        "source": _path_after(change.source, rename),
        "shows": shows,
    }


def finish_directory_rename(context: Context, change: Change) -> None:
    """Look whether the directory rename that the last mount left unfinished was carried out; update the paths below, or end it.

    What programs have read below the directory, and the copies kept there, go along (vfs/semantics.md 4.46, 4.53).

    Raises ApiError; then the mount must not start, because it does not know these paths. Raises FsError(EIO).
    """
    with contextlib.suppress(NotFoundError):
        if context.client.get(change.staged_id).path == change.target:
            update_paths_below(context.state, change)
            context.state.read_log.move_notes_below(change.source, change.target)
            context.state.rename_copies(change.source, change.target, directory=True)
            return
    context.state.end_change(change)

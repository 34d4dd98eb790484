"""Write-back: what the file system asks of the save protocol, and the threads that bring changes to the server."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import names, process
from jobfs.api.client import Client
from jobfs.background import Background
from jobfs.content import ContentStore
from jobfs.errors import FsError, JobfsError, UnavailableError
from jobfs.namespace import Namespace
from jobfs.nodes import Item
from jobfs.save.cleanup import Cleanup
from jobfs.save.context import Context
from jobfs.save.queue import MOST_HIDING, WHILE_OPEN, Queue
from jobfs.save.rename import Rename
from jobfs.save.replace import Replace
from jobfs.save.upload import Upload
from jobfs.settings import Settings
from jobfs.state import Change, File, State, edit
from jobfs.state.processes import Process
from jobfs.state.records import Base, Record, Stage, Verb
from jobfs.state.server import KnownServer

log = logging.getLogger("jobfs.save")

#: Seconds between disk syncs, between looks at what the last listing has brought, and between returns of free memory.
_SYNC_EVERY, _TIDY_EVERY, _GIVE_BACK_EVERY = 0.5, 1.0, 15.0
#: Seconds until a file that was renamed to a scratch name leaves the server.
SCRATCH_DELAY = 3.0
#: Seconds without a listing after which one is made, if something may be left to be deleted.
_LIST_EVERY = 3600.0
#: A tombstone is kept for so many request lifetimes, and until a listing after that.
_LIFETIMES = 20


class Victim(NamedTuple):
    """What loses its name to something else: its base, its item and File, and the Change that was to remove it."""

    base: Base = Base()
    item: Item | None = None
    file: File | None = None
    pending: Change | None = None


class WriteBack:
    """One for a mount. Owns the state and the queue. May be called from any thread."""

    def __init__(
        self,
        client: Client,
        namespace: Namespace,
        content: ContentStore,
        directory: Path,
        mount: str,
        settings: Settings,
        server: KnownServer,
    ) -> None:
        """`directory`: the state directory of the mount, `mount`: its id. Raises UsageError if its journal can't be used."""
        self.client = client
        self.namespace = namespace
        self.content = content
        self.state = State(directory)
        # A save's own thread makes requests beside each of these: half as many threads as connections use them all.
        io_pool = ThreadPoolExecutor(max(1, client.max_connections // 2), "jobfs-io")
        body_pool = ThreadPoolExecutor(MOST_HIDING, "jobfs-bodies")
        self.context = Context(
            client, namespace, content, self.state, io_pool, body_pool, mount=mount, lifetime=settings.request_lifetime,
            timeout=settings.timeout, cache_limit=settings.cache_size, server=server,
        )  # fmt: skip
        self.upload = Upload(self.context, directory)
        self.cleanup = Cleanup(self.context, self.upload)
        self.replace = Replace(self.context, self.upload, self.cleanup)
        self.rename = Rename(self.context, self.replace, self.cleanup)
        delay = settings.write_back_delay
        self.queue = Queue(self.context, self.replace, self.rename, self.cleanup, delay=delay)
        #: What was taken up from the journal at the start, a line each, and what the user has to be told of it.
        self.taken_up: list[str] = []
        self.warnings: list[str] = []
        #: When free memory was returned, and when the listing was made or read last (monotonic seconds).
        self._given_back = self._listed = time.monotonic()
        #: The snapshot that `_tidy` has seen; before the first listing nothing is known to be gone.
        self._snapshot = 0
        self._threads = [
            Background("jobfs-sync", self._sync, first=_SYNC_EVERY, retry=_SYNC_EVERY),
            Background("jobfs-tidy", self._tidy, first=_TIDY_EVERY, retry=_TIDY_EVERY),
        ]

    def start(self) -> None:
        """Begin background work; `recovery.restore` has been called before."""
        self.queue.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End background work, if it was begun; what is not on the server stays in the journal."""
        for thread in self._threads:
            thread.stop()
        self.queue.stop()
        for thread in self._threads:
            thread.join()
        self.context.stop()
        try:
            self.state.sync()  # the next mount may remove an item whose bytes are here
        except FsError as error:
            log.error("%s", error)
        self.state.journal.close()

    def _sync(self) -> float:
        """Bring what was closed to the disk, and repeat closes that found it full. Raises FsError(ENOSPC, EIO)."""
        if self.state.unsynced:
            self.state.sync()
        if self.state.journal.spare.restore():
            for file in list(self.state.unclosed):
                self.seal(file)
                self.queue.save(file)
        return _SYNC_EVERY

    def _tidy(self) -> float:
        """Return free memory, and look at what the last listing has shown. Raises ApiError, FsError(EIO)."""
        now, number = time.monotonic(), self.namespace.snapshot_number
        if now - self._given_back > _GIVE_BACK_EVERY:
            self._given_back = now
            process.give_back()
        again = self.context.look_again
        if number != self._snapshot:
            self._listed = now
            self.cleanup.expose_orphans()
            self.cleanup.forget_vanished()
            self.state.journal.prune(now - self.context.lifetime * _LIFETIMES)
            self._snapshot = number
        elif now > (again if self._listed < again else self._listed + _LIST_EVERY):
            self._listed = now
            if self.state.journal.has_tombstones:
                self.namespace.refresh()
        return _TIDY_EVERY

    # -- what a close and an fsync mean (vfs/semantics.md 4)

    def seal(self, file: File) -> None:
        """Record that the File's bytes are closed: they are to be sent (w). Raises FsError(ENOSPC, EIO)."""
        with file.lock:
            local, new = file.local, not (file.generation or file.base.id)
            self.state.unclosed.discard(file)
            if local is None or file.path is None or not (file.shared and file.written):
                return
            try:
                self.state.close(file, local, refused="")
            except FsError:
                self.state.unclosed.add(file)
                raise
            if new:
                self.upload.count_new(file.path)

    def commit(self, file: File) -> None:
        """Return when the server has what was written so far (fsync). Raises the error that kept it from that."""
        self.seal(file)
        wanted = file.generation
        while True:
            if file.refused:
                number = errno.EFBIG if file.refused_errno == errno.EFBIG else errno.EIO
                raise FsError(number, f"{file.path} was refused by the server: {file.refused}")
            if not file.unsent:
                return
            change = self.queue.save(file, WHILE_OPEN)
            if change is not None:
                self.queue.commit(change)
                if change.generation >= wanted and file.base.id == change.staged_id != "":
                    return  # it is placed; bytes closed since are for another call

    def bring_to_rest(self, file: File) -> None:
        """Return when no save of this File is half done; one that can't be waited for is begun anew. Raises ApiError, FsError."""
        if file.stays:
            return
        if self.namespace.unreachable and self._take_back(file):
            self.queue.save(file)
        try:
            while (change := file.change) is not None and change.going:
                self.queue.commit(change)
        except UnavailableError:
            if not self._take_back(file):
                raise
            self.queue.save(file)

    def _take_back(self, file: File) -> bool:
        """Stop a save that was begun, to be taken back later; False if there is none, or it may have set something aside."""
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.begun or change.settled or change.asides:
                return False
            self.state.cancel(change, ino=0, base=Base())  # what it was to replace stays
        self.queue.wake()
        return True

    def make_directory(self, path: str) -> Item | None:
        """A new directory on the server; None if the server can't be asked. Raises FsError(EEXIST), ApiError."""
        if self.namespace.unreachable:
            return None
        self.upload.count_new(path)
        try:
            item = self.upload.make_directory(path) or self.replace.make(path)
        except UnavailableError:
            return None
        self.namespace.publish(item)
        return item

    def cancel(self, file: File) -> bool:
        """Stop the save of a File that is unlinked (R10). Raises FsError.

        False if the save may have come to the server: it is recorded as cancelled, and its name is hidden until it is taken
        back. Else True: the File keeps its row until the caller has deleted its item, if any, and unnames it.
        """
        with file.lock, self.state.lock:
            change = file.change
            if change is None or not change.begun or change.settled:
                return True
            if not change.recorded:
                self.state.end(change)  # nothing is sent before it has a row: its run ends
                return True
            self.state.cancel(change, shows={change.target: None}, gone=[file])
            self.state.unname(file)
        self.queue.wake()
        return False

    def remove_later(self, item: Item) -> None:
        """Delete an item once its bytes, which are needed here, are on this machine. Raises ApiError, FsError(EIO)."""
        self.client.reach(item.path)
        removal = self._removal(item.path, self.context.base_of(item), item)
        try:
            self.state.write(edit(removal), new=True)
        except FsError:
            self.state.end(removal)
            raise
        self.queue.add(removal, 0.0)

    def victim(self, path: str, node: File | Item | None, process: Process | None = None) -> Victim:
        """What loses this name if `process` gives it to something else. Raises nothing.

        `node` is what is shown there, at rest.
        """
        if isinstance(node, Item):
            return Victim(self.context.base_of(node, process=process), node)
        if node is not None:
            return Victim() if node.stays else Victim(node.base, node.item, node)
        pending = self.state.pending(path)
        if pending is None:
            return Victim()
        base = self.context.base_read(pending.item, process) if pending.item is not None else None
        return Victim(base or pending.base, pending.item, None, pending)

    def replaced(self, victim: Victim, over: File | None = None) -> None:
        """Something else has the name: let go of the victim, and of `over`, a file of this machine only that had it."""
        for file in (over, victim.file):
            if file is not None:
                self.state.unname(file)
        if victim.pending is not None:
            self.state.end(victim.pending)

    def take_place(self, file: File, path: str, victim: Victim, over: File | None = None) -> None:
        """A File that only this machine has gets the name of what it replaces, in one step (vfs/semantics.md 4, rename).

        `over`: a file of this machine only that has the name. Raises FsError(ENOSPC, EIO); then nothing was changed.
        """
        replaced = (victim.pending, victim.file, over)
        gone: list[Record] = [row for row in replaced if row is not None and row.recorded]
        replaces = bool(gone or victim.base.id)
        values: dict[str, Any] = {
            "path": path, "stays": False, "base": victim.base, "refused": "",
            "item_id": victim.item.id if victim.item is not None else "",
        }  # fmt: skip
        with file.lock, self.state.lock:
            local = file.local
            if local is not None and (file.stays or (replaces and not file.generation)):
                # Bytes that were never closed are closed with their new name: they have the place after a death.
                self.state.close(file, local, gone=gone, new=True, **values)
            elif file.recorded or replaces:
                self.state.write(edit(file, **values), gone=gone, new=True)
            self.state.apply(file, **values, item=victim.item)
            if file.change is not None:
                self.state.apply(file.change, target=path)
        ended = victim.file.change if victim.file is not None else None
        due = ended.due if ended is not None and ended.verb is Verb.PUT and not ended.begun else 0.0
        self.replaced(victim, over)
        self.queue.save(file, by=due)  # when the unsent bytes that it replaces were due

    def move_over(self, item: Item, target: str, victim: Victim) -> Item:
        """Move an item over what stands at `target` (vfs/semantics.md 4, rename). Raises ApiError; then both are back."""
        state, file = self.state, victim.file
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
            self.queue.commit(change)
        except JobfsError:
            # Whatever the server may have carried out is taken back: both files have their names, or are beside each other.
            self.replace.give_up(change)
            if file is not None:
                if file.written and not file.writing:
                    state.unclosed.add(file)  # its close could not be recorded
                self.queue.save(file)
            self.queue.wake()
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
        state, item = self.state, node if isinstance(node, Item) else None
        base = self.context.base_of(item)
        file = state.open(node) if isinstance(node, Item) else node
        copy = None if source is None else state.bytes.new(file.ino, state.journal.next_number(), source)
        values = {"path": new, "stays": True, "item_id": "", "base": Base(), "refused": "", **attr}
        with file.lock, state.lock:
            change, local = file.change, file.local or copy
            assert local is not None
            if local is not copy:
                base, item = file.base, file.item  # it was not sent, or a program has begun to write to it
            removal = self._removal(old, base, item) if base.id else None
            # After a kill the server's version must not come back alone: it is older.
            older = [edit(removal)] if removal is not None and file.unsaved else []
            try:
                state.close(file, local, *older, gone=[over] if over is not None else [], new=True, **values)
            except FsError:
                if copy is not None:
                    copy.discard()
                if removal is not None:
                    state.end(removal)
                raise
            if change is not None:
                state.end(change)
            if copy is not None and local is not copy:
                copy.discard()
            elif local is copy and not file.handles:
                local.release()
            state.apply(file, item=None, local=local)
            if removal is not None:
                self.queue.add(removal, SCRATCH_DELAY)
        if over is not None:
            state.unname(over)

    def _removal(self, path: str, base: Base, item: Item | None) -> Change:
        """A Change that deletes an item which is not shown any more, unless something takes its name."""
        return self.state.change(
            Verb.REMOVE, path, stage=Stage.STAGED, base=base, item=item, shows={path: None},
        )  # fmt: skip

    # -- what a person decides about saves that do not get through (vfs/semantics.md 4)

    def retry(self, path: str | None) -> list[str]:
        """Try at once what was refused, or waits for its next try, at or below `path`; returns the paths."""
        found = []
        for file in self.state.left(path or "").files:
            change = file.change
            if file.refused:
                self.state.write(edit(file, refused="", refused_errno=0))
            elif change is None or not change.attempts:
                continue
            if change is not None and change.begun:
                self.queue.add(change, 0.0)
            else:
                self.queue.save(file, 0.0)
            found.append(file.path or "")
        return found

    def discard(self, path: str) -> list[tuple[str, str]]:
        """Give up what is unsent at or below `path`; returns each path and where a copy of its bytes is kept.

        Raises FsError(ENOENT) if nothing is unsent there, FsError(EBUSY) if it is open in a program, or just being sent.
        """
        # The entries of a directory go before it.
        found = sorted(self.state.left(path).files, key=lambda file: file.path or "", reverse=True)
        if not found:
            raise FsError(errno.ENOENT, f"nothing is unsent at {path or 'this mount'}")
        if opened := next((file.path for file in found if file.handles), None):
            raise FsError(errno.EBUSY, f"{opened} is open in a program: close it first")
        return [(file.path or "", self._give_up(file, file.path or "")) for file in found]

    def _give_up(self, file: File, target: str) -> str:
        """Let go of a File's record and bytes, and of its save; returns where a copy of the bytes is."""
        with self.state.reservations.held(target):
            if not (file.unsent or file in self.state.unclosed):
                raise FsError(errno.ENOENT, f"{target} was just sent")
            local, change = file.local, file.change
            with contextlib.suppress(FsError):  # bytes that can't be read are given up without a copy
                local = local or self.state.bytes.open(file.ino, file.generation)
            kept = "" if local is None else str(self.state.bytes.throw_away(local, names.basename(target)))
            if change is not None and (change.running or (change.begun and not self._take_back(file))):
                raise FsError(errno.EBUSY, f"{target} is just being sent: look again in a moment")
            with file.lock, self.state.lock:
                self.state.unname(file)
            self.namespace.touch(target)
        return kept

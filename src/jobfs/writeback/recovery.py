"""Taking up what an earlier run left in the journal (save-protocol.md, Recovery).

Nothing is assumed of the last request: each transaction looks at the server before its next step.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import replace

from jobfs import names
from jobfs.errors import NotFoundError
from jobfs.nodes import Kind
from jobfs.writeback import disk
from jobfs.writeback.engine import WriteBack
from jobfs.writeback.inodes import WHITEOUT, Inode
from jobfs.writeback.localbytes import Orphan
from jobfs.writeback.moves import rekey
from jobfs.writeback.records import Aside, Fate, LocalEntry, Removed, Renaming, Save, SaveKind, State
from jobfs.writeback.transaction import Transaction

log = logging.getLogger("jobfs.writeback")

#: The `boot` of bytes whose record is lost: they stay suspect until they have a name.
_UNKNOWN = "unknown"
#: Tombstones are kept this long, in seconds.
_TOMBSTONES = 30 * 86400.0


def restore(engine: WriteBack) -> list[str]:
    """Rebuild the overlay and the queue from the journal, before the mount answers. Returns what was found, for the log.

    Raises ApiError if the server has to be asked and can't be. Until its transaction ends, a file is served from its local bytes.
    """
    journal = engine.journal
    for renamed in journal.load(Renaming):
        _settle_renaming(engine, renamed)
    asides: dict[int, list[Aside]] = defaultdict(list)
    for aside in sorted(journal.load(Aside), key=lambda aside: aside.order):
        # After a restart any request on an aside may have gone unanswered (R7).
        aside.unsure_until = engine.unanswered.note(aside.id)
        asides[aside.seq].append(aside)
    keep: set[tuple[int, int]] = set()
    found = []
    for save in journal.load(Save):
        work = Transaction(save)
        work.asides = asides.pop(save.seq, [])
        work.unsure = True
        if save.staged_id:
            engine.unanswered.note(save.staged_id)
        found.append(f"{save.target}: {save.kind} that was {save.state}")
        _restore(engine, work, keep)
    for entry in journal.load(LocalEntry):
        _restore_local(engine, entry, keep)
    engine.removals.restore(journal.load(Removed))
    lost, unfinished = engine.bytes.sweep(keep, journal.highest)
    for orphan in lost:
        found.append(_bring_back(engine, orphan))
    for path in unfinished:
        log.warning("local bytes that were never closed are kept as %s until the next clean unmount", path)
    journal.prune(time.time() - _TOMBSTONES)
    return found


def _settle_renaming(engine: WriteBack, renamed: Renaming) -> None:
    """Ask the server whether a directory was renamed just before the end. Raises ApiError: nothing can be shown before."""
    try:
        item = engine.client.get(renamed.item_id)
    except NotFoundError:
        engine.journal.write(gone=[renamed])
        return
    if item.path == renamed.new:
        below = [save for save in engine.journal.load(Save) if names.under(save.target, renamed.old)]
        rekey(engine.journal, renamed, below)
    else:
        engine.journal.write(gone=[renamed])


def _restore(engine: WriteBack, work: Transaction, keep: set[tuple[int, int]]) -> None:
    save = work.save
    if save.state is State.PROMOTED:
        if save.kind is SaveKind.SAVE:
            # Only to be removed once the journal that says so is on the disk (R3).
            work.local = engine.bytes.open(save.ino, save.generation)
            keep.add((save.ino, save.generation))
        engine.finisher.add(work)
        return
    if save.kind is SaveKind.REMOVE:
        for aside in work.asides:
            aside.unsure_until = min(
                aside.unsure_until, time.time() if aside.fate is Fate.RETURN else aside.unsure_until
            )
        engine.finisher.add(work)
        return
    if save.kind is SaveKind.MKDIR and save.state is not State.CANCELLED:
        # Nobody was told that it is there.
        save.become(State.CANCELLED)
        engine.journal.write(save)
    if save.kind is SaveKind.SAVE and not _restore_bytes(engine, work, keep):
        return
    engine.uploader.add(work, 0.0)


def _restore_bytes(engine: WriteBack, work: Transaction, keep: set[tuple[int, int]]) -> bool:
    """The local bytes of a save, shown at its target; False if it was never acknowledged and is dropped."""
    save = work.save
    # A journal of before `boot` was kept says nothing of it.
    work.suspect = not save.synced and save.boot not in ("", disk.BOOT)
    work.local = engine.bytes.open(save.ino, save.generation)
    if work.local is not None and work.local.size != save.size:
        log.warning("%s: its local bytes are not whole", save.target)
        work.local.close()
        work.local = None
    if work.local is not None:
        keep.add((save.ino, save.generation))
    elif save.state is State.STAGING and not save.tid:
        # There is nothing whole to send, here or on the server.
        engine.journal.write(gone=[save, *work.asides])
        return False
    if save.state is State.CANCELLED:
        if work.local is not None:
            # Unlinked: not shown again until it is off the server.
            engine.overlay.put(save.target, WHITEOUT)
    elif not work.suspect:
        _show(engine, work)
    return True


def _bring_back(engine: WriteBack, orphan: Orphan) -> str:
    """Closed bytes whose record is lost, with the power or with a part of the journal: saved under a name of their own."""
    save = Save(
        engine.journal.next_seq(), SaveKind.SAVE, orphan.target or f"{orphan.ino:x}-{orphan.generation}",
        ino=orphan.ino, generation=orphan.generation, size=orphan.size, boot=_UNKNOWN, made=time.time(),
    )  # fmt: skip
    engine.journal.write(save)
    work = Transaction(save, local=engine.bytes.open(orphan.ino, orphan.generation))
    work.suspect = True
    engine.uploader.add(work, 0.0)
    return f"{save.target}: closed, but its record is lost"


def _show(engine: WriteBack, work: Transaction) -> None:
    """Serve the target from the local bytes until the transaction ends."""
    save = work.save
    inode = engine.table.get(save.ino)
    if inode is None:
        inode = Inode(save.ino, Kind.FILE, save.target)
        inode.base = save.base
        inode.current = work
        engine.table.add(inode)
        engine.overlay.put(save.target, inode)
    else:
        inode.next = work
        if inode.local is not None:
            inode.local.close()
    work.inode = inode
    inode.local = work.local.acquire() if work.local is not None else None
    if inode.local is not None:
        inode.local.sealed = True
    inode.path = save.target
    inode.permission = save.permission
    inode.mode, inode.uid, inode.gid = save.mode, save.uid, save.gid
    inode.atime_ns, inode.mtime_ns = save.atime_ns, save.mtime_ns
    inode.ctime_ns = save.mtime_ns


def _with_bytes_of_its_own(engine: WriteBack, entry: LocalEntry) -> LocalEntry:
    """It was to be saved and got a scratch name instead: whoever takes the save back removes that one's bytes."""
    source = engine.bytes.open(entry.ino, entry.generation)
    if source is None:
        return entry
    own = engine.bytes.new(entry.ino, engine.journal.next_seq(), source)
    own.sync()
    entry = replace(entry, generation=own.generation)
    engine.journal.write(entry)
    own.close()
    source.close()
    return entry


def _restore_local(engine: WriteBack, entry: LocalEntry, keep: set[tuple[int, int]]) -> None:
    """A file that lives on this machine only comes back as it was."""
    if entry.item_id:
        engine.aliases.restore(entry)
        return
    inode = Inode(entry.ino, entry.kind, entry.path)
    inode.local_only, inode.link = True, entry.link
    if entry.kind is Kind.FILE and not entry.link:
        if (entry.ino, entry.generation) in keep:
            entry = _with_bytes_of_its_own(engine, entry)
        inode.local = engine.bytes.open(entry.ino, entry.generation, writable=True)
        if inode.local is None:
            engine.journal.write(gone=[entry])
            return
        keep.add((entry.ino, entry.generation))
    inode.mode, inode.uid, inode.gid = entry.mode, entry.uid, entry.gid
    inode.atime_ns, inode.mtime_ns, inode.ctime_ns = entry.atime_ns, entry.mtime_ns, entry.mtime_ns
    engine.table.add(inode)
    engine.overlay.put(entry.path, inode)

"""How new content comes to the server: as a hidden item beside its target, or straight at it where that is safe (R9).

It is safe on a server that answers 400 to a create at an existing path: after a few new files a mount tries that, with hidden
items of its own (`trial.questions.rejects`), and the answer is kept for all mounts. So is the answer to the question whether this
server refuses a move onto an item, which decides how a save in place is sent (R13).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from jobfs import names
from jobfs.errors import AnswerLostError, FsError, NotFoundError
from jobfs.nodes import Item, Kind, Lifecycle, Permission
from jobfs.save.context import Context, item_if_bytes_match
from jobfs.state import Change
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import Aside, Stage, Verb
from jobfs.trial.questions import TELLTALE, probe_move_refusal, probe_second_create

log = logging.getLogger("jobfs.save")

#: New files count when they are closed and when they are sent, replaced ones when they are sent: at the first count the server is
#: asked, so many later again.
_WORTH, _AGAIN = 4, 50


class Uploader:
    """Creates items, and finds those whose answers were lost. Every method may be called from any thread."""

    def __init__(self, context: Context, directory: Path) -> None:
        """`directory`: the state directory of this mount."""
        self._context = context
        self._client = context.client
        self._state = context.state
        self._probe = directory / "probe"
        self._create_count, self._replacement_count = itertools.count(1), itertools.count(1)

    def create_item(self, change: Change, path: str) -> Item:
        """Create the item of the change at its hidden name, or straight at its target. Raises ApiError, FsError."""
        # A hidden item gets its permission with the move: a server may refuse to move a readOnly item.
        permission = (path == change.target and _wanted_permission(change)) or Permission.READ_WRITE
        if change.verb is Verb.MKDIR:
            return self._client.create_directory(path, permission)
        return self._send(change, path, permission)

    def _send(self, change: Change, path: str, permission: Permission) -> Item:
        """Create a file with the bytes of the change, and note their hash as they go out: they are not read again for it."""
        source, digest = self._state.bytes.generation_path(change.ino, change.generation), hashlib.sha256()

        def note(before: int, piece: bytes) -> None:
            nonlocal digest
            if not before:
                digest = hashlib.sha256()  # an attempt begins
            digest.update(piece)
            change.sent = before

        item = self._client.create_file(path, source, change.size, permission, note)
        if change.sent == change.size and not change.sha256:
            self._state.apply_in_memory(change, sha256=digest.hexdigest())
        return item

    def find_staged(self, change: Change) -> Item | None:
        """The item at the change's hidden name, if it is there, of its kind and with the right size. Raises ApiError."""
        directory, hidden = change.verb is Verb.MKDIR, change.hidden_path(self._context.mount)
        found = (item for item in self._client.find(hidden) if item.is_dir is directory)
        return next((item for item in found if directory or item.size in (None, change.size)), None)

    def open_whole_bytes(self, change: Change) -> LocalGeneration | None:
        """The bytes that a `put` sends, None if they are not whole on this machine."""
        local = self._state.bytes.open(change.ino, change.generation)
        return local if local is not None and local.size == change.size else None

    def digest_to_send(self, change: Change) -> str:
        """Return the hash of what is sent, from the local bytes where no create of this run has noted it.

        "" for a directory, or if the bytes are no longer whole here. Raises FsError(EIO).
        """
        if change.verb is not Verb.PUT or change.sha256 or (local := self.open_whole_bytes(change)) is None:
            return change.sha256
        try:
            return local.compute_sha256()
        except OSError as error:
            raise FsError(errno.EIO, f"the local bytes of {change.target} can't be read: {error}") from error

    def may_create_directly(self, change: Change) -> bool:
        """True if this change is to be created at its target."""
        new = change.verb is Verb.PUT and not (change.base.id or change.staged_id or change.asides)
        return change.direct or (new and self._context.server.facts.rejects.get(Kind.FILE, False))

    def find_created_directly(self, change: Change) -> Item | None:
        """The item at the target, if it has the bytes of this save. Raises ApiError."""
        there = self._client.find(change.target) if change.sha256 else []
        alike = (item for item in there if not item.is_dir and item.size in (None, change.size))
        found = (item_if_bytes_match(self._client, item, change.sha256) for item in alike)
        return next((item for item in found if item is not None), None)

    def try_make_directory(self, path: str) -> Item | None:
        """A new directory in one request; None: it has to be made the hidden way. Raises ApiError."""
        if not self._context.server.facts.rejects.get(Kind.DIRECTORY):
            return None
        try:
            return self._client.create_directory(path, Permission.READ_WRITE)
        except AnswerLostError:
            return next((item for item in self._client.find(path) if item.is_dir), None)

    def count_create(self, path: str) -> None:
        """Count something new at this path, made or about to be sent: now and then the server is asked how it takes creates."""
        due = next(self._create_count) % _AGAIN == _WORTH
        if (
            due
            and len(self._context.server.facts.rejects) < len(Kind)
            and not self._client.health.is_in_outage
        ):
            self._context.io_pool.submit(self.probe_creates, path)

    def count_replacement(self, path: str) -> None:
        """Count a save in place: now and then the server is asked whether it refuses a move onto an item, until that is known."""
        due = next(self._replacement_count) % _AGAIN == _WORTH
        if due and self._context.server.facts.moves_refused is None and not self._client.health.is_in_outage:
            self._context.io_pool.submit(self.probe_moves, path)

    def probe_creates(self, target: str) -> None:
        """Create hidden items beside `target` twice, and see what the server says. Raises ApiError, FsError, OSError."""
        tid = names.new_transaction_id()
        path = names.join(names.parent(target), TELLTALE)
        path = names.hidden_path(path, self._context.mount, tid, names.Role.STAGED)
        with self._hold_probe_items(path, tid):
            self._probe.write_bytes(b"?")
            found: dict[Kind, bool] = {}
            for kind in Kind:
                # Each answer counts at once: from then on new items are made in one request.
                with probe_second_create(self._client, path, kind, self._probe) as found[kind]:
                    self._context.server.learn(rejects=dict(found))
            log.info("creates at existing paths are rejected by this server: %s", found)

    def probe_moves(self, target: str) -> None:
        """Move a hidden item beside `target` onto another, and see what the server says. Raises ApiError, FsError."""
        # Two hidden names of one file: a message about either names that file.
        tids = (names.new_transaction_id(), names.new_transaction_id())
        path = names.join(names.parent(target), TELLTALE)
        moved, taken = (names.hidden_path(path, self._context.mount, tid, names.Role.STAGED) for tid in tids)
        made: list[Item] = []
        with self._hold_probe_items(moved, tids[0]), self._hold_probe_items(taken, tids[1]):
            try:
                for path in (moved, taken):
                    made.append(self._client.create_file(path, Path(os.devnull), 0, Permission.READ_WRITE))
                refused = probe_move_refusal(self._client, *made)
            finally:
                for item in made:
                    with contextlib.suppress(NotFoundError):
                        self._client.delete(item.id)
        self._context.server.learn(moves_refused=refused)
        log.info("moves onto existing items are refused by this server: %s", refused)

    @contextlib.contextmanager
    def _hold_probe_items(self, path: str, tid: str) -> Iterator[None]:
        """Make hidden items of the transaction `tid` inside, one of them at `path`. Raises ApiError, FsError."""
        # This Change explains the hidden items while the server is asked: the answer depends on them.
        with self._state.run_here(Verb.PUT, path, tid=tid, stage=Stage.PLACED) as change:
            try:
                # A tombstone: what is left of them is deleted when a listing shows it (R4).
                self._state.write(transaction_id=tid, is_new=True)
                # Else a loss of power could leave an item without a record: it would be shown as one of the user's.
                self._state.store.sync()
                yield
            except AnswerLostError:
                self._context.look_again = self._context.late_request_deadline()
                raise
            finally:
                self._state.end_change(change)


def _wanted_permission(change: Change) -> Permission | None:
    return change.file.pending_permission if change.file is not None else None


def inherited_attributes(
    change: Change, item: Item, was: Aside | None
) -> tuple[Lifecycle | None, Permission | None]:
    """Lifecycle and permission that `item` takes over from what it replaces, `was`; None where they are equal."""
    lifecycle = was.lifecycle if was else item.lifecycle
    permission = _wanted_permission(change) or (was.permission if was else item.permission)
    return (
        lifecycle if lifecycle != item.lifecycle else None,
        # A move keeps its permission.
        permission if permission != item.permission and change.verb is not Verb.MOVE else None,
    )

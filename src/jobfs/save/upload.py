"""Uploads of new content: as a hidden item beside the target, or directly at the target where that is safe (save/protocol.md R9).

It is safe on a server that answers 400 to a create at an existing path. After a few new files, a mount probes that with hidden
items of its own (`trial.questions.probe_second_create`), and keeps the answer for all mounts. In the same way it probes whether
the server refuses a move onto an existing item, which decides whether the requests of a save in place may overlap (R13).
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
from jobfs.errors import AnswerLostError, ApiError, FsError, NotFoundError
from jobfs.nodes import Item, Kind, Lifecycle, Permission
from jobfs.save.context import Context, item_if_bytes_match
from jobfs.state import Change
from jobfs.state.localbytes import LocalGeneration
from jobfs.state.records import Aside, Stage, Verb
from jobfs.trial.questions import TELLTALE, probe_move_refusal, probe_second_create

log = logging.getLogger("jobfs.save")

#: The server is probed when a count reaches `_WORTH`, and every `_AGAIN` counts after that. A new file counts when it is closed
#: and when it is sent, a new directory when it is made; a save in place counts, apart from these, when it could have overlapped.
_WORTH, _AGAIN = 4, 50


class Uploader:
    """Creates items, and finds those whose create got no reply. Every method may be called from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._probe = context.state.directory / "probe"
        self._create_count, self._replacement_count = itertools.count(1), itertools.count(1)

    def create_item(self, change: Change, path: str) -> Item:
        """Create the item of a Change at `path`: its hidden path or its target. Raises ApiError, FsError."""
        # A hidden item gets its permission from the move: a server may refuse to move a readOnly item.
        permission = (path == change.target and _wanted_permission(change)) or Permission.READ_WRITE
        if change.verb is Verb.MKDIR:
            return self._client.create_directory(path, permission)
        return self._send_file(change, path, permission)

    def _send_file(self, change: Change, path: str, permission: Permission) -> Item:
        """Create a file with the bytes of the Change; hash them as they are sent, so that they are read only once."""
        source, digest = self._state.bytes.generation_path(change.ino, change.generation), hashlib.sha256()

        def note(offset: int, piece: bytes) -> None:
            nonlocal digest
            if not offset:
                digest = hashlib.sha256()  # a new attempt
            digest.update(piece)
            change.sent = offset

        item = self._client.create_file(path, source, change.size, permission, note)
        if change.sent == change.size and not change.sha256:
            self._state.apply_in_memory(change, sha256=digest.hexdigest())
        return item

    def find_staged(self, change: Change) -> Item | None:
        """Find the item of the Change's kind and size at its hidden path; None if there is none. Raises ApiError."""
        directory, hidden = change.verb is Verb.MKDIR, change.hidden_path(self._context.mount)
        found = (item for item in self._client.find(hidden) if item.is_dir is directory)
        return next((item for item in found if directory or item.size in (None, change.size)), None)

    def open_whole_bytes(self, change: Change) -> LocalGeneration | None:
        """Return the local bytes that a `put` sends, None if they are not whole."""
        local = self._state.bytes.open(change.ino, change.generation)
        return local if local is not None and local.size == change.size else None

    def digest_to_send(self, change: Change) -> str:
        """Return the hash of the bytes that the Change sends; compute it from the local bytes if no create has noted it.

        "" for a directory, or if the local bytes are not whole. Raises FsError(EIO).
        """
        if change.verb is not Verb.PUT or change.sha256 or (local := self.open_whole_bytes(change)) is None:
            return change.sha256
        try:
            return local.compute_sha256()
        except OSError as error:
            raise FsError(errno.EIO, f"the local bytes of {change.target} can't be read: {error}") from error

    def may_create_directly(self, change: Change) -> bool:
        """Return whether the item of a Change may be created directly at its target (R9)."""
        new = change.verb is Verb.PUT and not (change.base.id or change.staged_id or change.asides)
        return change.direct or (new and self._context.server.facts.rejects.get(Kind.FILE, False))

    def find_created_directly(self, change: Change) -> Item | None:
        """Find the item at the target that has the bytes of this save; None if there is none. Raises ApiError."""
        items = self._client.find(change.target)
        same_size = (item for item in items if not item.is_dir and item.size in (None, change.size))
        found = (item_if_bytes_match(self._client, item, change.sha256) for item in same_size)
        return next((item for item in found if item is not None), None)

    def try_make_directory(self, path: str) -> Item | None:
        """Make a directory with one request; None if it must be created hidden and promoted (R9). Raises ApiError."""
        if not self._context.server.facts.rejects.get(Kind.DIRECTORY):
            return None
        try:
            return self._client.create_directory(path, Permission.READ_WRITE)
        except AnswerLostError:
            return next((item for item in self._client.find(path) if item.is_dir), None)

    def count_create_and_probe(self, path: str) -> None:
        """Count a new file or directory at `path`; now and then, probe how the server treats creates (`probe_creates`)."""
        due = next(self._create_count) % _AGAIN == _WORTH
        if (
            due
            and len(self._context.server.facts.rejects) < len(Kind)
            and not self._client.health.is_limited_to_probes
        ):
            self._context.io_pool.submit(self.probe_creates, path)

    def count_replacement_and_probe(self, path: str) -> None:
        """Count a save in place; now and then, until the answer is known, probe whether moves onto items are refused (R13)."""
        due = next(self._replacement_count) % _AGAIN == _WORTH
        if (
            due
            and self._context.server.facts.moves_refused is None
            and not self._client.health.is_limited_to_probes
        ):
            self._context.io_pool.submit(self.probe_moves, path)

    def probe_creates(self, target: str) -> None:
        """Create a hidden item of each kind beside `target`, then again at its path, and keep whether the server refuses that.

        Raises ApiError, FsError, OSError.
        """
        tid = names.new_transaction_id()
        path = names.join(names.parent(target), TELLTALE)
        path = names.hidden_path(path, self._context.mount, tid, names.Role.STAGED)
        with self._hold_probe_items(path, tid):
            self._probe.write_bytes(b"?")
            found: dict[Kind, bool] = {}
            for kind in Kind:
                # Each answer is kept at once: from then on, new items of this kind may be created directly.
                with probe_second_create(self._client, path, kind, self._probe) as found[kind]:
                    self._context.server.learn(rejects=dict(found))
            log.info("whether this server refuses creates at existing paths, by kind: %s", found)

    def probe_moves(self, target: str) -> None:
        """Move a hidden item beside `target` onto another one, and keep whether the server refuses that.

        Raises ApiError, FsError.
        """
        # Both hidden names stand for one file name, which messages show in their place.
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
        log.info("whether this server refuses moves onto existing items: %s", refused)

    @contextlib.contextmanager
    def _hold_probe_items(self, path: str, tid: str) -> Iterator[None]:
        """Protect the hidden items that the block creates with transaction `tid`, one of them at `path`.

        Raises ApiError, FsError.
        """
        try:
            # This Change explains the hidden items during the probe: cleanup must not touch them.
            with self._state.plan_for_caller(Verb.PUT, path, tid=tid, stage=Stage.PLACED) as change:
                try:
                    # The tombstone: after the probe, a listing that shows a leftover deletes it (R4).
                    self._state.write(transaction_id=tid, is_new=True)
                    # Without a sync, a loss of power could leave an item without its tombstone, which is shown as a user's file.
                    self._state.store.sync()
                    yield
                finally:
                    self._state.end_change(change)
        except ApiError:
            # An item may be left, or made late. Not while the Change explains it: the listing would leave it there.
            self._context.relist_after = self._context.late_request_deadline()
            raise


def _wanted_permission(change: Change) -> Permission | None:
    return change.file.pending_permission if change.file is not None else None


def inherited_attributes(
    change: Change, item: Item, inherit_from: Aside | None
) -> tuple[Lifecycle | None, Permission | None]:
    """Return the lifecycle and the permission that the move to the target must set; None for what `item` has already.

    `inherit_from`: the aside whose lifecycle and permission the item inherits, None if it replaces nothing.
    """
    lifecycle = inherit_from.lifecycle if inherit_from else item.lifecycle
    permission = _wanted_permission(change) or (inherit_from.permission if inherit_from else item.permission)
    return (
        lifecycle if lifecycle != item.lifecycle else None,
        # An item that a program renames keeps its permission.
        permission if permission != item.permission and change.verb is not Verb.MOVE else None,
    )

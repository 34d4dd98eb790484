"""Requests on one item for which the caller waits: a new path or permission, or its removal (save/protocol.md R8, R10, R12).

Each changing request is sent once: to repeat it, look at the item again (`Context.hold_connection`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

from jobfs import names
from jobfs.api import deadline
from jobfs.errors import (
    REFUSALS,
    AnswerLostError,
    ApiError,
    FsError,
    HeldBackError,
    ItemChangedError,
    NoDirectoryError,
    NotFoundError,
    UnavailableError,
)
from jobfs.nodes import Item
from jobfs.save.cleanup import Cleanup, confirm_is_base, fetch_bytes_for_handles, forget_item
from jobfs.save.context import Context, Observation
from jobfs.save.replace import Replacer
from jobfs.state import Change, State, edit
from jobfs.state.records import Aside, Base, Stage, Verb

log = logging.getLogger("jobfs.save")

#: Most times that a request is sent; the item is looked at again before each repeat.
_LOOKS = 8


class ItemRequests:
    """The requests of a mount on single items. Every method may be called from any thread.

    An ApiError has the errno that the program gets.
    """

    def __init__(self, context: Context, replacer: Replacer, cleanup: Cleanup) -> None:
        self._context = context
        self._client = context.client
        self._state = context.state
        self._namespace = context.namespace
        self._replacer = replacer
        self._cleanup = cleanup

    def update_item(self, item: Item, **wanted: Any) -> Item:
        """Change an item's path, permission or lifecycle with one request.

        Raises PathExistsError if the path is taken, ApiError.
        """
        observation = self._context.last_observation_of(item)
        failed = UnavailableError(f"the directory of {wanted.get('path')} keeps being removed")
        for attempt in range(_LOOKS):
            try:
                before, reply = self._context.update_item_and_compare(observation, **wanted)
            except AnswerLostError as error:
                failed = error
            except NoDirectoryError:
                self._replacer.make_missing_directory(names.parent(wanted["path"]))
                continue
            except UnavailableError as error:
                failed = error
                self._sleep_before_retry(error, attempt)
            else:
                self._context.carry_notes_over(before, reply)
                return self._record_update(reply, item.path, **wanted)
            reply = self._client.get(item.id)
            observation = observation._replace(item=reply, observed_at=time.monotonic())
            if all(value in (None, getattr(reply, name)) for name, value in wanted.items()):
                self._context.carry_notes_to_path(item, reply.path)
                return self._record_update(reply, item.path, **wanted)
            self._context.undo_other_form(reply, wanted.get("path", reply.path), item.path)
            if reply.path != item.path:
                raise NotFoundError(f"{item.path} was renamed by the job")
        raise failed

    def _record_update(self, item: Item, old_path: str, path: str = "", **_: object) -> Item:
        if path:
            self._context.note_rename(item.id, item.path)
        self._namespace.record_own_change(item, old_path if path else "")
        return item

    def _sleep_before_retry(self, error: UnavailableError, attempt: int) -> None:
        """Wait before the next attempt. Raises `error` if the deadline comes before that, or the server is out of reach."""
        if isinstance(error, ItemChangedError):
            return  # the request was not sent: it only needs another look at the item
        if isinstance(error, HeldBackError):
            raise error
        deadline.sleep_before_retry(
            deadline.retry_delay(attempt, error, max_delay=deadline.UNBOUNDED), error, self._context.timeout
        )

    def hide_empty_directory(self, item: Item) -> None:
        """Move a directory to a hidden name, out of the job's reach, if a listing shows it empty; cleanup deletes it (R12).

        Raises FsError(ENOTEMPTY), ApiError.
        """
        namespace, state = self._namespace, self._state
        if namespace.children(
            item.path, max_age=namespace.max_age_to_prove_empty
        ) or self._cleanup.has_lasting_children(item.path):
            raise FsError(errno.ENOTEMPTY)
        with state.plan_for_caller(Verb.REMOVE, item.path, stage=Stage.STAGED) as change:
            try:
                # At the top of the workspace if the directory holds hidden names: nested hidden names make too long a path.
                asides = (aside for other in [*state.changes.values()] for aside in other.asides)
                deep = any(names.is_below(aside.path, item.path) for aside in asides)
                near = names.basename(item.path) if deep else item.path
                aside = self._replacer.plan_aside(change, item, names.Role.REMOVED, near)
                self._move_to_hidden_name(change, item, aside)
            except BaseException:
                if change.stage is Stage.STAGED:
                    state.end_change(change)
                raise
        state.forget_item(item.id)

    def _move_to_hidden_name(self, change: Change, item: Item, aside: Aside) -> None:
        """Move the directory to its hidden name.

        Raises ApiError; if the move may still be carried out, cleanup looks at the item.
        """
        try:
            aside.mark_moved(self.update_item(item, path=aside.path))
            # Before the Change is placed and cleanup looks: items that a listing shows in the directory from now on must be kept.
            self._namespace.record_deleted(item)
        except ApiError:
            self._namespace.invalidate(item.path)
            raise
        finally:
            aside.unsure_until = self._context.unsure_until(item.id)
            if aside.moved or aside.unsure_until:
                self._state.write(edit(change, stage=Stage.PLACED, asides=[aside]))

    def delete_item(self, item: Item) -> None:
        """Delete the file at a path: `item`, seen there at most 1 s ago, or a file that has replaced it (R10).

        Raises ApiError.
        """

        def observe_again(item: Item, lost: bool) -> Observation | None:
            found = self._namespace.lookup(item.path, max_age=0.0)
            if found is None or found.is_dir or (lost and found.id != item.id):
                return None
            return self._context.last_observation_of(found, 0.0)

        fetch_bytes_for_handles(self._context, item.id)
        self._delete_observed(self._context.last_observation_of(item, 0.0), observe_again)

    def delete_if_still(self, path: str, base: Base) -> None:
        """Delete the item at `path` if it still is the version `base` (R7). Raises ApiError, FsError."""
        if not base.id:
            return
        fetch_bytes_for_handles(self._context, base.id)
        observation = self._observe_base(path, base)
        if observation is not None:
            self._delete_observed(observation, lambda item, lost: self._observe_base(path, base))
        else:
            self._namespace.invalidate(path)

    def _delete_observed(
        self, observation: Observation, observe_again: Callable[[Item, bool], Observation | None]
    ) -> None:
        """Delete an observed item, with another observation before each further attempt. Raises ApiError.

        `observe_again` gets the item and whether an answer was lost; it returns the item to delete now, None if nothing is left.
        """
        lost = False
        for attempt in range(_LOOKS):
            item = observation.item
            try:
                self._context.delete_item(observation)
                return forget_item(self._context, item)
            except AnswerLostError:
                lost = True
            except NotFoundError:
                forget_item(self._context, item)
            except UnavailableError as error:
                self._sleep_before_retry(error, attempt)
            again = observe_again(item, lost)
            if again is None:
                return self._namespace.invalidate(item.path)
            observation = again
        raise UnavailableError(f"{observation.item.path} could not be deleted: try again later")

    def _observe_base(self, path: str, base: Base) -> Observation | None:
        """Look at the item of `base`; return None if it is another version, or not at `path`. Raises ApiError, FsError."""
        with contextlib.suppress(NotFoundError):
            item = self._client.get(base.id)
            observation = Observation(item, time.monotonic(), is_exact=True)
            if item.path == path:
                if confirm_is_base(self._context, item, base):
                    return observation
                log.warning(
                    "%s: not deleted: the job has written to it since this mount last showed it", path
                )
        return None

    def run_removal(self, change: Change) -> None:
        """Carry out a removal: of an unlinked file that is still read here, or of the item of a file renamed to a scratch name.

        Raises ApiError, FsError.
        """
        if change.base.id:
            # Recorded before the request: after a kill, the next mount continues the removal. The local bytes are synced first.
            self._state.store.sync()
            self._state.write(edit(change))
        try:
            self.delete_if_still(change.target, change.base)
        except REFUSALS as error:
            # Otherwise a new file of this name would wait for the removal for ever.
            log.warning("%s: the server refuses to delete it, so it is shown again: %s", change.target, error)
            self._state.end_change(change)
            self._namespace.invalidate(change.target)
            raise
        self._context.keep_implicit_parent(change.target)
        self._state.end_change(change)


def plan_removal(state: State, path: str, base: Base, item: Item | None) -> Change:
    """Plan the removal of an item, and hide it; until the removal starts, an operation that takes the name may void it."""
    return state.plan_change(Verb.REMOVE, path, stage=Stage.STAGED, base=base, item=item, shows={path: None})

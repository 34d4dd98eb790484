"""Questions about updates and deletes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from jobfs.errors import (
    ApiError,
    BadRequestError,
    InvalidRequestError,
    NotFoundError,
    PathExistsError,
    UnauthorizedError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.nodes import Lifecycle, Permission
from jobfs.trial.asking import Finding, Trial, bad, copes, good

_UNSAFE = "a save can't be done safely: mount this with --read-only"


def to_free_path(trial: Trial) -> Finding:
    """Move a file to a free path. Raises ApiError."""
    item = trial.file("move-from")
    trial.tick()
    moved = trial.saw(trial.client.update(item.id, path=trial.path("move-to")))
    old = trial.client.find(item.path)
    if old:
        return bad("done, but find shows it at its old path", _UNSAFE)
    if trial.client.get(item.id).path != moved.path:
        return bad("done, but get does not show it", _UNSAFE)
    trial.facts["touched_file"] = moved.updated_at != item.updated_at
    return good("moved, with its id", "a rename is one request")


def to_taken_path(trial: Trial) -> Finding:
    """Move a file to where another one is. Raises ApiError."""
    there, item = trial.file("taken", b"there"), trial.file("taken-from", b"moved")
    try:
        trial.client.update(item.id, path=there.path)
    except PathExistsError as error:
        return good(
            f"refused with {error.status}", "a save never covers what it has not seen", move_taken="reject"
        )
    found = trial.client.find(there.path)
    if len(found) > 1:
        return bad("done: two items at one path", _UNSAFE, move_taken="duplicate")
    return bad("done: the other file is gone", _UNSAFE, move_taken="overwrite")


def directory(trial: Trial) -> Finding:
    """Move a directory with a file in it. Raises ApiError."""
    above = trial.make_directory("tree")
    below = trial.file("tree/file")
    trial.tick()
    moved = trial.saw(trial.client.update(above.id, path=trial.path("tree-moved")))
    after = trial.client.get(below.id)
    carried = after.path == trial.path("tree-moved/file")
    trial.facts |= {
        "carries": carried,
        "touched_directory": moved.updated_at != above.updated_at,
        "touched_below": after.updated_at != below.updated_at,
    }
    if not carried:
        return copes(
            "only the directory itself moves", "what is in it is moved one by one", move_carries=False
        )
    return good("what is in it moves along", "a rename of a directory is one request", move_carries=True)


def touches(trial: Trial) -> Finding:
    """Whose `updatedAt` the moves before have changed."""
    facts = trial.facts
    if "touched_file" not in facts:
        return bad("not known: the move was not answered", "")
    if not (facts["touched_file"] or facts.get("touched_directory") or facts.get("touched_below")):
        return good("nobody's", "a save need not read what it replaces", move_touches="no")
    below = facts.get("touched_below") and facts.get("carries")
    return copes(
        "that of all that moved" if below else "the moved item's",
        "a save reads what it replaces, to compare the bytes",
        move_touches="tree" if below else "item",
    )


def fineness(trial: Trial) -> Finding:
    """How fine the times are that items show."""
    if not trial.stamps or trial.offset() is None:
        return bad("times can't be read", "a mount can't tell versions of a file apart")
    digits = trial.digits()
    if digits == 0:
        return copes(
            "whole seconds",
            "what the job writes twice within a second is read again to be sure",
            updated_resolution="seconds",
        )
    word = "milliseconds" if digits <= 3 else "microseconds"
    return good(word, "what the job writes is told apart", updated_resolution=word)


def read_only(trial: Trial) -> Finding:
    """Whether readOnly is kept, and what it forbids. Raises ApiError."""
    item = trial.file("read-only", permission=Permission.READ_ONLY)
    try:
        for permission in (Permission.READ_WRITE, Permission.READ_ONLY):
            item = trial.client.update(item.id, permission=permission)
    except WrongAnswerError:
        return copes("not kept", "`chmod -w` fails")
    moved = _done(lambda: trial.client.update(item.id, path=trial.path("read-only-moved")))
    if moved and _done(lambda: trial.client.delete(item.id)):
        return good("kept; it can be moved and deleted", "`chmod -w` is seen by the job", read_only="shown")
    return copes(
        f"kept; it can't be {'deleted' if moved else 'moved'}",
        "what `chmod -w` made readOnly can't be renamed, replaced or removed until `chmod +w`",
        read_only="enforced",
    )


def _done(change: Callable[[], object]) -> bool:
    try:
        change()
    except UnavailableError:
        raise
    except ApiError:
        return False
    return True


def lifecycle(trial: Trial) -> Finding:
    """Make a file one of the workspace's defaults, and create the job's own at its path. Raises ApiError."""
    item = trial.file("lifecycle", b"default")
    made = [item]
    try:
        trial.client.update(item.id, lifecycle=Lifecycle.APPLICATION)
        try:
            made.append(trial.file("lifecycle", b"own"))
        except PathExistsError:
            made.append(item)
    except WrongAnswerError:
        return copes(
            "not changed", "`jobfs set --lifecycle` fails; a default that is saved is the job's own then"
        )
    except (UnauthorizedError, BadRequestError, InvalidRequestError) as error:
        return copes(
            f"refused with {error.status}",
            "`jobfs set --lifecycle`, and saving one of the workspace's defaults, are refused too",
        )
    finally:
        # Whatever comes, and at once: the defaults of a workspace are shared.
        for item_id in dict.fromkeys(each.id for each in made):
            with contextlib.suppress(NotFoundError):
                trial.client.delete(item_id)
    if made[1].id == item.id:
        return good("changed; one path has one item", "a name is one file", path_scope="all")
    return good(
        "changed; a path may have one item of each",
        "the job's own file is shown, and covers the default",
        path_scope="lifecycle",
    )


def delete(trial: Trial) -> Finding:
    """Delete a file, twice. Raises ApiError."""
    item = trial.file("delete")
    first = trial.watched.send("DELETE", f"items/{item.id}")
    second = trial.watched.send("DELETE", f"items/{item.id}")
    if not first.ok:
        return bad(
            f"refused with {first.status}", "a mount can't delete, and saves leave old versions behind"
        )
    if trial.client.find(item.path):
        return bad("done, but find still shows it", "deleted files come back")
    body = _body(first.body)
    answered = f"{first.status} with {body}; again: {second.status}"
    if second.ok:
        return copes(answered, "a delete that came too late is not noticed", delete_body=body)
    return good(answered, "the status is the answer", delete_body=body)


def _body(body: bytes) -> str:
    text = body.strip()
    if not text:
        return "nothing"
    if text in (b"null", b"{}"):
        return "null" if text == b"null" else "an empty object"
    return "the item" if b'"data"' in text else "something else"


def delete_directory(trial: Trial) -> Finding:
    """Delete a directory with a file in it. Raises ApiError."""
    above, below = trial.make_directory("delete-tree"), trial.file("delete-tree/file")
    try:
        trial.client.delete(above.id)
    except UnavailableError:
        raise
    except ApiError as error:
        return good(f"refused with {error.status} while something is in it", "rmdir of an empty one is safe")
    try:
        trial.client.get(below.id)
    except NotFoundError:
        return good("what is in it goes with it", "rmdir looks twice before it deletes")
    return good("what is in it stays", "rmdir deletes only what is empty")

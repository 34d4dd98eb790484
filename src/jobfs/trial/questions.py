"""The questions, as a table: each is a function that asks a server one thing and says what the answer means for a mount.

A mount asks `rejects` and `carried`, too.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import names
from jobfs.api.client import Client
from jobfs.api.deadline import steady
from jobfs.errors import (
    ApiError,
    BadRequestError,
    InvalidRequestError,
    JobfsError,
    NotFoundError,
    PathExistsError,
    UnauthorizedError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.namespace.listing import Lister
from jobfs.nodes import Item, Kind, Permission

#: A name that a server keeps only if it keeps all names; else another name would stand at the target (save/protocol.md R6).
TELLTALE = "A\N{COMBINING DIAERESIS} "
#: Names that a server may keep in another form, by their description.
_FORMS = {
    "in NFD, as a Mac writes it": "u\N{COMBINING DIAERESIS}ber",
    "with capitals": "Capitals",
    "with a blank at its end": "blank ",
}
#: The bytes that are sent, and compared with those that come back.
_CONTENT = random.Random(1).randbytes(3000)
#: Seconds after which items of another try are taken away: no try takes that long.
ABANDONED = 600.0
#: Looks until everything is gone, and seconds between them: a request that was broken off may be carried out late.
_LOOKS, _BETWEEN = 5, 0.3
#: Seconds after which even a clock that shows whole seconds shows another one.
_TICK = 1.1
#: Questions without an answer, one after another, after which the server is left alone.
_ENOUGH = 2
_READ_ONLY = "mount this with --read-only"


class Verdict(StrEnum):
    """An answer is as wished; or it costs something; or it keeps a mount from working, or did not come."""

    GOOD = "ok"
    COSTS = "WARN"
    BAD = "FAILED"


@dataclass(frozen=True)
class Finding:
    """An answer in words, whether it is good, and what it means for a mount; `facts` are those of a ServerFacts."""

    answered: str
    verdict: Verdict
    meaning: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Row(NamedTuple):
    """A question, its name in reports, and its finding."""

    name: str
    asked: str
    finding: Finding


def good(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that is as wished."""
    return Finding(answered, Verdict.GOOD, meaning, facts)


def costs(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that costs something, and no more."""
    return Finding(answered, Verdict.COSTS, meaning, facts)


def bad(answered: str, remedy: str) -> Finding:
    """A finding with which jobfs can't keep a promise."""
    return Finding(answered, Verdict.BAD, remedy)


class Trial:
    """One try of one server, in a directory in the root of the workspace that no mount shows.

    `scratch` is a directory on this machine for what is sent.
    """

    def __init__(self, client: Client, scratch: Path) -> None:
        self.client = client
        self._scratch = scratch
        hidden = names.HiddenName(names.new_mount_id(), names.new_transaction_id(), names.Role.TRIED, "try")
        self.root = str(hidden)

    def path(self, name: str) -> str:
        """The path of a name in the try's directory."""
        return names.join(self.root, name)

    def source(self, content: bytes) -> tuple[Path, int]:
        """A file on this machine with this content, and its size, for a create."""
        path = self._scratch / "source"
        path.write_bytes(content)
        return path, len(content)

    def file(self, name: str, content: bytes = b"?", permission: Permission = Permission.READ_WRITE) -> Item:
        """A new file in the try's directory. Raises ApiError."""
        return self.client.create_file(self.path(name), *self.source(content), permission)

    def make_directory(self, name: str) -> Item:
        """A new directory in the try's directory. Raises ApiError."""
        return self.client.create_directory(self.path(name), Permission.READ_WRITE)

    def bytes_of(self, item: Item) -> bytes:
        """The whole content of a file. Raises ApiError."""
        with self.client.download(item.id) as body:
            return b"".join(body.chunks())

    def everything(self) -> list[Item]:
        """All items of the workspace. Raises ApiError."""
        items, _ = Lister(self.client).read(known=(), ours=set)
        return items

    def left(self) -> list[Item]:
        """The items in the try's directory, and those that earlier tries have left. Raises ApiError."""
        now = steady() + self.client.server_time_offset
        found = []
        for item in self.everything():
            parts = names.parse_hidden(item.path.partition("/")[0])
            old = now - item.updated_ns / 1e9 > ABANDONED
            if parts and parts.role is names.Role.TRIED and (old or names.within(item.path, self.root)):
                found.append(item)
        return found

    def delete(self, item: Item) -> None:
        """Delete an item, if the server lets that happen. Raises UnavailableError."""
        try:
            self.client.delete(item.id)
        except UnavailableError:
            raise
        except ApiError:
            pass  # it may be readOnly, and goes with its directory; the next look sees it


# What a mount asks, too


@contextlib.contextmanager
def rejects(client: Client, path: str, kind: Kind, source: Path) -> Iterator[bool]:
    """Whether a second create at `path` is refused; created items are taken away at the end. Raises ApiError.

    `source` has the one byte that a file gets.
    """

    def create() -> Item:
        if kind is Kind.FILE:
            return client.create_file(path, source, 1, Permission.READ_WRITE)
        return client.create_directory(path, Permission.READ_WRITE)

    made = [create().id]
    try:
        try:
            made.append(create().id)
            refused = False
        except PathExistsError:
            refused = True
        yield refused
    finally:
        for item_id in dict.fromkeys(made):
            with contextlib.suppress(NotFoundError):
                client.delete(item_id)


def carried(client: Client, inside: Iterable[Item], directory: str) -> bool | None:
    """Whether these items moved along with their directory, whose path is `directory` now. Raises ApiError.

    None if all of them were moved or deleted meanwhile.
    """
    for item in inside:
        try:
            path = client.get(item.id).path
        except NotFoundError:
            continue
        if names.under(path, directory):
            return True
        if path == item.path:
            return False
    return None


# The questions; each raises ApiError


def _directory(trial: Trial) -> Finding:
    trial.client.create_directory(trial.root, Permission.READ_WRITE)
    return good("yes", "the key may write")


def _create(trial: Trial) -> Finding:
    item = trial.file("created")
    if not item.updated_ns:
        return bad("its updatedAt can't be read, and versions not be told apart", _READ_ONLY)
    if trial.client.forms[Kind.FILE].encoding == "json":
        return costs("as JSON", "an upload is a third longer than the file")
    return good("as multipart", "it is streamed")


def _existing(trial: Trial) -> Finding:
    source, _ = trial.source(b"?")
    # Under a hidden name, an item that gets another name is taken for ours.
    name = names.HiddenName(names.new_mount_id(), names.new_transaction_id(), names.Role.TRIED, TELLTALE)
    two = "what is new is made under a hidden name and moved: two requests"
    found: dict[Kind, bool] = {}
    try:
        for kind in Kind:
            with rejects(trial.client, trial.path(str(name)), kind, source) as found[kind]:
                pass
    except BadRequestError:
        return costs("not known, for its name is not kept", two, rejects={})
    if all(found.values()):
        return good("yes", "what is new takes one request", rejects=found)
    return costs(f"not of a {next(kind for kind in Kind if not found[kind])}", two, rejects=found)


def _name_forms(trial: Trial) -> Finding:
    changed = []
    for words, name in _FORMS.items():
        try:
            trial.file(name)
        except (WrongAnswerError, BadRequestError, InvalidRequestError):
            changed.append(words)
    if not changed:
        return good("yes", "a file is found by the name that it was given")
    told = "files and directories with such names fail (EIO), and are kept on this machine: give them other names"
    return costs(f"not one {', nor one '.join(changed)}", told)


def _seen(trial: Trial) -> Finding:
    item = trial.file("seen")
    ways = {
        "get": trial.client.get(item.id).path == item.path,
        "find": item.id in {found.id for found in trial.client.find(item.path)},
        "list": item.id in {found.id for found in trial.everything()},
    }
    if missing := [way for way, there in ways.items() if not there]:
        return bad(f"not by {', '.join(missing)}: saves and listings would miss files", _READ_ONLY)
    return good("yes", "what is saved is on the server for everyone")


def _sizes(trial: Trial) -> Finding:
    if trial.file("sized").size is None:
        told = "`ls -l` costs a request a file, once a version; offline, what never had a size can't be looked at"
        return costs("no", told)
    return good("yes", "`ls -l` takes no downloads")


def _move(trial: Trial) -> Finding:
    item = trial.file("from")
    time.sleep(_TICK)
    moved = trial.client.update(item.id, path=trial.path("to"))
    if trial.client.find(item.path) or trial.client.get(item.id).path != moved.path:
        return bad("it was answered, and not done: no save is safe", _READ_ONLY)
    if moved.updated_at == item.updated_at:
        return good(
            "yes, and its updatedAt stays", "a save sends, and reads nothing", moves_keep_updated_at=True
        )
    told = "a save reads what it replaces, to compare the bytes"
    return costs("yes, and it changes its updatedAt", told, moves_keep_updated_at=False)


def _taken(trial: Trial) -> Finding:
    there, item = trial.file("taken", b"there"), trial.file("mover", b"moved")
    try:
        trial.client.update(item.id, path=there.path)
    except PathExistsError:
        return good("yes", "a save never covers what it has not seen")
    if len(trial.client.find(there.path)) > 1:
        return bad("no, there are two items of one name then: no save is safe", _READ_ONLY)
    return bad("no, the other file is gone then: no save is safe", _READ_ONLY)


def _tree(trial: Trial) -> Finding:
    above, below = trial.make_directory("tree"), trial.file("tree/file")
    moved = trial.client.update(above.id, path=trial.path("moved"))
    if carried(trial.client, [below], moved.path):
        return good("yes", "a rename of a directory is one request", moves_carry=True)
    return costs("no", "a directory with something in it is not renamed: mv copies it", moves_carry=False)


def _download(trial: Trial) -> Finding:
    for name, content in (("bytes", _CONTENT), ("empty", b"")):
        if trial.bytes_of(trial.file(name, content)) != content:
            return bad("not what was sent: files would be damaged", "don't use this server")
    return good("yes", "what is read is what was written")


def _ranges(trial: Trial) -> Finding:
    item = trial.file("parts", _CONTENT)
    with trial.client.download(item.id, 100, 200, size=len(_CONTENT)) as body:
        start, data = body.start, b"".join(body.chunks())
    if data != (_CONTENT[100:200] if start else _CONTENT) or start not in (0, 100):
        return bad("not what was asked for: files would be damaged", "don't use this server")
    if start:
        return good("yes", "a jump into a large file is quick", ranges=True)
    return costs("no", "a jump into a large file waits for what is before", ranges=False)


def _read_only(trial: Trial) -> Finding:
    item = trial.file("read-only")
    try:
        trial.client.update(item.id, permission=Permission.READ_ONLY)
    except WrongAnswerError:
        return costs("no", "`chmod -w` fails")
    try:
        trial.client.update(item.id, path=trial.path("read-only-moved"))
        trial.client.delete(item.id)
    except UnavailableError:
        raise
    except ApiError:
        # If readOnly is not the reason, this fails as well, and its error is told instead.
        trial.client.update(item.id, permission=Permission.READ_WRITE)
        trial.client.delete(item.id)
        told = "what `chmod -w` made readOnly can't be renamed, replaced or removed until `chmod +w`"
        return costs("yes, and it can't be moved or deleted then", told)
    return good("yes", "`chmod -w` is seen by the job")


def _delete(trial: Trial) -> Finding:
    item = trial.file("deleted")
    trial.client.delete(item.id)
    if trial.client.find(item.path):
        return bad("no, find still shows it: deleted files come back", _READ_ONLY)
    return good("yes", "what is removed is gone")


class Question(NamedTuple):
    """A question: its name in reports, its words, and the function that asks; if an `essential` one fails, no other is asked."""

    name: str
    asked: str
    ask: Callable[[Trial], Finding]
    essential: bool = False


QUESTIONS = (
    Question("directory", "May a directory be made?", _directory, True),
    Question("create", "How is a file sent?", _create, True),
    Question("existing", "Is a create refused where something is?", _existing),
    Question("name_forms", "Are names kept as they are sent?", _name_forms),
    Question("seen", "Is what was written seen at once?", _seen),
    Question("sizes", "Are the sizes of files told?", _sizes),
    Question("move", "Does a file move to a free path?", _move),
    Question("taken", "Is a move refused where something is?", _taken),
    Question("tree", "Does what is in a directory move with it?", _tree),
    Question("download", "Does a download give what was sent?", _download),
    Question("ranges", "Is a part of a file to be had?", _ranges),
    Question("read_only", "Is readOnly kept?", _read_only),
    Question("delete", "Is what was deleted gone?", _delete),
)


def run(trial: Trial) -> Iterator[Row]:
    """Ask one question after another; a row for each that is asked. Signals break it off between any two lines."""
    unanswered = 0
    for question in QUESTIONS:
        try:
            finding, unanswered = question.ask(trial), 0
        except JobfsError as error:
            remedy = _READ_ONLY
            if isinstance(error, UnauthorizedError):
                remedy = f"use a key that may do this (PERSTACK_API_KEY, --api-key-file), or {_READ_ONLY}"
            elif isinstance(error, UnavailableError) and not isinstance(error, WrongAnswerError):
                remedy, unanswered = "try again when the server answers", unanswered + 1
            finding = bad(str(error), remedy)
        yield Row(question.name, question.asked, finding)
        if unanswered >= _ENOUGH or (question.essential and finding.verdict is Verdict.BAD):
            return


def clear(trial: Trial) -> Row:
    """Take everything away; the row that tells how that went."""
    try:
        for _ in range(_LOOKS):
            for item in (left := trial.left()):
                trial.delete(item)
            if not left:
                break
            time.sleep(_BETWEEN)
        told = f"no, {len(left)} items are left" if left else ""
    except JobfsError as error:
        told = f"not known: {error}"
    finding = good("yes", "nothing is left of this")
    if told:
        finding = bad(told, "no mount shows it; a --try in ten minutes takes it away")
    return Row("cleared", "Is all of this taken away?", finding)

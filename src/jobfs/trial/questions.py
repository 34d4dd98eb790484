"""The questions, as a table: each is a function that asks a server, and yields what is not as desired, with its remedy.

A mount uses `probe_second_create`, `probe_move_refusal` and `check_moved_along`, too.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from jobfs import names
from jobfs.api.client import Client
from jobfs.api.deadline import steady_time
from jobfs.errors import (
    REFUSALS,
    BadRequestError,
    ContractError,
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

#: A name that a server keeps only if it keeps every name. A server that changes it would put the item at another path
#: (save/protocol.md R6).
TELLTALE = "A\N{COMBINING DIAERESIS}\N{LATIN SMALL LETTER O WITH DIAERESIS} "
#: The forms in which a server may keep names, and for each a name in another form.
_COMPOSED, _DECOMPOSED = "composed (Unicode NFC; Macs write NFD)", "decomposed (Unicode NFD)"
_FORMS = {
    _COMPOSED: "u\N{COMBINING DIAERESIS}ber",
    _DECOMPOSED: "\N{LATIN SMALL LETTER O WITH DIAERESIS}l",
    "without capitals": "Capitals",
    "without a blank at the end": "blank ",
}
#: The bytes that are sent, and compared with those that come back.
_CONTENT = random.Random(1).randbytes(3000)
#: Seconds after which items of another trial are deleted: no trial takes that long.
ABANDONED = 600.0
#: Listings until everything is gone, and seconds between them: an aborted request may be executed late.
_LOOKS, _BETWEEN = 5, 0.3
#: Seconds after which even a clock with whole seconds shows another time.
_TICK = 1.1
_READ_ONLY = "mount only with --read-only"
_NEVER = "don't use this server"


class Mark(StrEnum):
    """What a finding means for a mount."""

    OK = "ok"  # it is as desired
    SLOWER = "slower"  # everything works, and costs more
    WARN = "WARN"  # something does not work that most people do without
    UNSURE = "UNSURE"  # no answer came
    UNSAFE = "UNSAFE"  # only a mount that does not write is safe
    FAILED = "FAILED"  # no mount is safe


class Finding(NamedTuple):
    """The subject of a question, a mark, and a sentence that says what the finding means and what can be done."""

    about: str
    mark: Mark
    text: str


#: The findings of a question that are not as desired; facts are recorded in the Trial. Raises ApiError.
Findings = Iterator[tuple[Mark, str]]


class Trial:
    """One trial of one server, in a directory in the root of the workspace that no mount shows.

    `scratch` is a directory on this machine for the bytes to send; `facts` holds the fields of ServerFacts that were found out.
    """

    def __init__(self, client: Client, scratch: Path) -> None:
        self.client = client
        self.facts: dict[str, Any] = {}
        self._scratch = scratch
        hidden = names.HiddenName(names.new_mount_id(), names.new_transaction_id(), names.Role.TRIED, "try")
        self.root = str(hidden)

    def path(self, name: str) -> str:
        """Return the path of a name in the trial's directory."""
        return names.join(self.root, name)

    def make_source(self, content: bytes) -> tuple[Path, int]:
        """Make a file on this machine with this content; return its path and size, as a create takes them."""
        path = self._scratch / "source"
        path.write_bytes(content)
        return path, len(content)

    def create_file(
        self, name: str, content: bytes = b"?", permission: Permission = Permission.READ_WRITE
    ) -> Item:
        """Create a file in the trial's directory. Raises ApiError."""
        return self.client.create_file(self.path(name), *self.make_source(content), permission)

    def download_bytes(self, item: Item) -> bytes:
        """Return the whole content of a file. Raises ApiError."""
        with self.client.download(item.id) as body:
            return b"".join(body.chunks())

    def list_items(self) -> list[Item]:
        """Return all items of the workspace. Raises ApiError."""
        return Lister(self.client).read_all(known=(), own_ids=set)[0]

    def leftover_items(self) -> Iterator[Item]:
        """Yield the items of this trial, and those that earlier trials left behind. Raises ApiError."""
        now = steady_time() + self.client.server_time_offset
        for item in self.list_items():
            parts = names.parse_hidden_name(item.path.partition("/")[0])
            old = now - item.updated_ns / 1e9 > ABANDONED
            if (
                parts
                and parts.role is names.Role.TRIED
                and (old or names.is_at_or_below(item.path, self.root))
            ):
                yield item


# Questions that a mount asks, too


@contextlib.contextmanager
def probe_second_create(client: Client, path: str, kind: Kind, source: Path) -> Iterator[bool]:
    """Yield whether the server refuses a second create at `path`; delete the created items at the end. Raises ApiError.

    `source` holds the one byte that a created file gets.
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


def probe_move_refusal(client: Client, item: Item, taken: Item) -> bool:
    """Return whether the server refuses to move `item` to the path of `taken`, and leaves both in place. Raises ApiError."""
    try:
        client.update(item.id, path=taken.path)
        return False
    except PathExistsError:
        return all(client.get(each.id).path == each.path for each in (item, taken))


def check_moved_along(client: Client, inside: Iterable[Item], directory: str) -> bool | None:
    """Return whether these items moved along with their directory, whose new path is `directory`. Raises ApiError.

    None if all of them have been deleted, or moved elsewhere, since.
    """
    for item in inside:
        try:
            path = client.get(item.id).path
        except NotFoundError:
            continue
        if names.is_below(path, directory):
            return True
        if path == item.path:
            return False
    return None


# The questions


def _ask_new_file(trial: Trial) -> Findings:
    trial.client.create_directory(trial.root, Permission.READ_WRITE)
    item = trial.create_file("file")
    ways = {
        "get": trial.client.get(item.id).path == item.path,
        "find": item.id in {found.id for found in trial.client.find(item.path)},
        "list": item.id in {found.id for found in trial.list_items()},
    }
    if missing := ", ".join(way for way, there in ways.items() if not there):
        yield Mark.FAILED, f"a new file is not found by {missing}, so a mount would miss files: {_NEVER}"
    if not item.updated_ns:
        yield Mark.UNSAFE, f"updatedAt can't be read, so versions can't be distinguished: {_READ_ONLY}"
    if trial.client.working_forms[Kind.FILE].encoding == "json":
        yield Mark.SLOWER, "an upload is a third longer than the file (it is sent as JSON)"
    if item.size is None:
        told = "`ls -l` costs one request per version of a file, and offline shows only known sizes"
        yield Mark.SLOWER, f"{told} (the server gives no sizes)"


def _ask_creates(trial: Trial) -> Findings:
    source, _ = trial.make_source(b"?")
    # Under a hidden name, so that an item which gets another name is recognized as this trial's.
    name = names.HiddenName(names.new_mount_id(), names.new_transaction_id(), names.Role.TRIED, TELLTALE)
    found: dict[Kind, bool] = {}
    why = "a create at a taken path is not refused"
    try:
        for kind in Kind:
            with probe_second_create(trial.client, trial.path(str(name)), kind, source) as found[kind]:
                pass
    except BadRequestError:
        found, why = {}, "names are not kept as they are sent"
    trial.facts["rejects"] = found
    if not found or not all(found.values()):
        yield Mark.SLOWER, f"each new file or directory takes two requests ({why})"


def _ask_names(trial: Trial) -> Findings:
    kept = []
    for form, name in _FORMS.items():
        try:
            trial.create_file(name)
        except (WrongAnswerError, BadRequestError, InvalidRequestError):
            kept.append(form)
    if {_COMPOSED, _DECOMPOSED} <= {*kept}:
        kept[:2] = ["in ASCII"]
    if kept:
        told = f"the server keeps names only {' and '.join(kept)}: a save under another name fails (EIO)"
        yield Mark.WARN, f"{told}, and its bytes stay on this machine: use such names"


def _ask_moves(trial: Trial) -> Findings:
    item, taken, other = trial.create_file("from"), trial.create_file("taken"), trial.create_file("other")
    above = trial.client.create_directory(trial.path("tree"), Permission.READ_WRITE)
    below = trial.create_file("tree/file")
    time.sleep(_TICK)
    moved = trial.client.update(item.id, path=trial.path("to"))
    if trial.client.find(item.path) or trial.client.get(item.id).path != moved.path:
        yield Mark.UNSAFE, f"a move was confirmed but not made, so no save is safe: {_READ_ONLY}"
        return
    trial.facts["moves_keep_updated_at"] = moved.updated_at == item.updated_at
    if not trial.facts["moves_keep_updated_at"]:
        yield Mark.SLOWER, "a save downloads the version that it replaces (a move changes updatedAt)"
    trial.facts["moves_refused"] = probe_move_refusal(trial.client, other, taken)
    if not trial.facts["moves_refused"]:
        yield Mark.UNSAFE, f"a move to a taken path is not refused, so no save is safe: {_READ_ONLY}"
    moved = trial.client.update(above.id, path=trial.path("moved"))
    trial.facts["moves_carry"] = bool(check_moved_along(trial.client, [below], moved.path))
    if not trial.facts["moves_carry"]:
        told = (
            "a directory that is not empty can't be renamed (EXDEV), because its contents would stay behind"
        )
        yield Mark.WARN, f"{told}: use mv, which copies it"


def _ask_reads(trial: Trial) -> Findings:
    item = trial.create_file("bytes", _CONTENT)
    with trial.client.download(item.id, 100, 200, size=len(_CONTENT)) as body:
        start, part = body.start, b"".join(body.chunks())
    expected = {0: _CONTENT, 100: _CONTENT[100:200]}.get(start)
    if (
        trial.download_bytes(item) != _CONTENT
        or trial.download_bytes(trial.create_file("empty", b""))
        or part != expected
    ):
        yield Mark.FAILED, f"a download returns other bytes than were uploaded: {_NEVER}"
        return
    trial.facts["ranges"] = bool(start)
    if not start:
        yield Mark.SLOWER, "a read far into a large file waits for everything before it (Range is ignored)"


def _ask_read_only(trial: Trial) -> Findings:
    item = trial.create_file("read-only")
    try:
        trial.client.update(item.id, permission=Permission.READ_ONLY)
    except WrongAnswerError:
        yield Mark.WARN, "`chmod -w` fails, because readOnly is not kept: leave permissions as they are"
        return
    try:
        trial.client.update(item.id, path=trial.path("read-only-moved"))
        trial.client.delete(item.id)
    except REFUSALS:
        # If readOnly is not the reason, this fails, too, and its error is reported instead.
        trial.client.update(item.id, permission=Permission.READ_WRITE)
        trial.client.delete(item.id)
        yield Mark.WARN, "readOnly items can't be renamed, replaced or deleted: run `chmod +w` first"


def _clean_up(trial: Trial) -> Findings:
    try:
        for _ in range(_LOOKS):
            if not (left := list(trial.leftover_items())):
                return
            for item in left:
                # A readOnly item is deleted with its directory; the next listing shows whether it was.
                with contextlib.suppress(*REFUSALS, NotFoundError):
                    trial.client.delete(item.id)
            time.sleep(_BETWEEN)
        yield (
            Mark.UNSAFE,
            f"{len(left)} items of this test can't be deleted (no mount shows them): {_READ_ONLY}",
        )
    except UnavailableError as error:
        yield (
            Mark.UNSURE,
            f"{error}: no mount shows the items that are left, and a --try in ten minutes deletes them",
        )


class Question(NamedTuple):
    """The subject of a question, the sentence for a server that is as desired, and the function that asks."""

    about: str
    well: str
    ask: Callable[[Trial], Findings]


QUESTIONS = (
    Question("writes", "a new directory and a new file are found at once, with the size", _ask_new_file),
    Question("creates", "a create at a taken path is refused", _ask_creates),
    Question("names", "names are kept as they are sent", _ask_names),
    Question(
        "moves", "a move includes all contents, keeps updatedAt, and is refused at a taken path", _ask_moves
    ),
    Question("reads", "a download returns what was uploaded, in whole and in part", _ask_reads),
    Question("permissions", "readOnly is kept", _ask_read_only),
)
_LAST = Question("cleanup", "everything that was created is deleted", _clean_up)


def ask_questions(trial: Trial) -> Iterator[Finding]:
    """Ask the questions in order, up to the first error. A signal may end it between any two findings."""
    for question in QUESTIONS:
        if not (yield from _ask_question(trial, question)):
            return


def clean_up_trial(trial: Trial) -> Iterator[Finding]:
    """Delete everything that this trial has created, and what earlier trials have left; yield how that went."""
    return _ask_question(trial, _LAST)


def _ask_question(trial: Trial, question: Question) -> Generator[Finding, None, bool]:
    """Yield the findings of one question, at least one. Return False after an error: the next question would get it, too."""
    well = True
    try:
        for mark, told in question.ask(trial):
            well = False
            yield Finding(question.about, mark, told)
    except JobfsError as error:
        mark, told = _describe_failure(error)
        yield Finding(question.about, mark, told.replace(f"{trial.root}/", "").replace(trial.root, "try"))
        return False
    if well:
        yield Finding(question.about, Mark.OK, question.well)
    return True


def _describe_failure(error: JobfsError) -> tuple[Mark, str]:
    if isinstance(error, UnauthorizedError):
        return Mark.UNSAFE, f"{error}: use a key that is allowed to do this, or {_READ_ONLY}"
    if isinstance(error, UnavailableError) and not isinstance(error, WrongAnswerError):
        return Mark.UNSURE, f"{error}: run this again when the server answers"
    if isinstance(error, ContractError):
        return Mark.FAILED, f"{error}: {_NEVER}"
    return Mark.UNSAFE, f"{error}: {_READ_ONLY}"

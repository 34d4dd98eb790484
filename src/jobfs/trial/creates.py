"""Questions about creates: how items are written, which bodies are taken, what a create at an existing path does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import product
from typing import Any

from jobfs.api.create import Encoding, Form
from jobfs.errors import (
    ApiError,
    BadRequestError,
    InvalidRequestError,
    NoDirectoryError,
    PathExistsError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.nodes import Item, Kind, Permission
from jobfs.trial.asking import Finding, Trial, Verdict, bad, copes, good, item_of

_ENCODINGS: tuple[Encoding, ...] = ("multipart", "json")
_SIZE = 1000
#: Names that a server may keep in another form: what that is called, such a name in words, and one of them.
_FORMS = {
    "nfc": ("one in NFD, as a Mac writes it", "u\N{COMBINING DIAERESIS}ber"),
    "lower": ("one with capitals", "Capitals"),
    "trimmed": ("one with a blank at its end", "blank "),
}
_OK = 200


def directory(trial: Trial) -> Finding:
    """Make the try's own directory; everything else happens in it. Raises ApiError."""
    trial.began = True
    made = trial.saw(trial.client.create_directory(trial.directory, Permission.READ_WRITE))
    trial.facts["directory"] = made.id
    return good("made", "the key may write")


def spelling(trial: Trial) -> Finding:
    """How one item is written: envelope, paths, types. Raises ApiError."""
    envelope, item = item_of(trial.watched.send("GET", f"items/{trial.facts['directory']}"))
    path, kind = str(item.get("path", "")), str(item.get("type", ""))
    slash, long_type = path.startswith("/"), kind.startswith("workspaceItem")
    trial.facts |= {"slash": slash, "long": long_type}
    if envelope not in ("workspaceItem", "item"):
        return bad("no item where the reference has one", "a mount can't read the answers")
    return good(
        f"data.{envelope}, type {kind if kind.isidentifier() else '?'}, paths like {'/a/b' if slash else 'a/b'}",
        "all spellings are read",
        envelope=envelope,
        path_style="slash" if slash else "relative",
        type_spelling="long" if long_type else "short",
    )


def encodings(trial: Trial) -> Finding:
    """Create a file and a directory as multipart and as JSON, with both spellings of types. Raises ApiError."""
    forms = [Form(encoding, long_type) for encoding, long_type in product(_ENCODINGS, (True, False))]
    statuses = {(kind, form): _created(trial, kind, form) for kind, form in product(Kind, forms)}
    taken = {kind: [form for form in forms if statuses[kind, form] == _OK] for kind in Kind}
    trial.facts["forms"] = {kind: min(found, key=trial.likeness) for kind, found in taken.items() if found}
    status = {name: statuses[Kind.FILE, Form(name, trial.facts["long"])] for name in _ENCODINGS}
    return _judged(taken[Kind.FILE], status, complete=all(taken.values()))


def _judged(taken: list[Form], status: dict[Encoding, int], *, complete: bool) -> Finding:
    """What it means that files can be created in these forms; `complete`: directories can be created too."""
    bodies = [name for name in status if status[name] == _OK]
    refused = {name: number for name, number in status.items() if number != _OK}
    both = len({form.long_type for form in taken}) > 1
    facts: dict[str, Any] = {
        "create_encodings": "both" if len(bodies) > 1 else "".join(bodies),
        "other_encoding": next(iter(refused.values()), None),
        "input_types": "both" if both else "own",
    }
    verdict, meaning = Verdict.GOOD, "files are sent as multipart"
    if "multipart" not in bodies:
        verdict, meaning = Verdict.COPES, "files are sent as JSON, which is a third longer"
    if not complete:
        verdict, meaning = Verdict.BAD, "a mount can't make files and directories"
    return Finding(_in_words(bodies, refused, both), verdict, meaning, facts)


def _in_words(bodies: list[Encoding], refused: dict[Encoding, int], both: bool) -> str:
    words = [f"{name} taken" for name in bodies]
    words += [f"{name} refused with {status}" for name, status in refused.items()]
    words.append("both names of types taken" if both else "only its own names of types taken")
    return "; ".join(words)


def _created(trial: Trial, kind: Kind, form: Form) -> int:
    name = f"{form.encoding}-{kind}-{'long' if form.long_type else 'short'}"
    path = ("/" if trial.facts["slash"] else "") + trial.path(name)
    file = trial.source(b"?") if kind is Kind.FILE else None
    answer = trial.watched.send("POST", "items/", form.body(kind, path, Permission.READ_WRITE, file))
    return _OK if answer.ok else answer.status


def sizes(trial: Trial) -> Finding:
    """Whether a file shows its size. Raises ApiError."""
    item = trial.file("size", b"x" * _SIZE)
    if item.size is None:
        return copes("not told", "`ls -l` costs a request a file, once a version", sizes="omitted")
    return good("told", "`ls -l` takes no downloads", sizes="present")


def existing_file(trial: Trial) -> Finding:
    """Create a file where one is. Raises ApiError."""
    first = trial.file("existing", b"first")
    return _again(trial, first, lambda: trial.file("existing", b"second"))


def existing_directory(trial: Trial) -> Finding:
    """Create a directory where one is. Raises ApiError."""
    first = trial.make_directory("existing-directory")
    return _again(trial, first, lambda: trial.make_directory("existing-directory"))


def _again(trial: Trial, first: Item, create: Callable[[], Item]) -> Finding:
    name = f"create_existing_{first.kind}"
    rejects: dict[Kind, bool] = trial.facts.setdefault("rejects", {})
    try:
        with contextlib.suppress(WrongAnswerError):  # what it has done is looked at
            create()
    except PathExistsError as error:
        rejects[first.kind] = True
        return good(f"refused with {error.status}", "what is new takes one request", **{name: "reject"})
    rejects[first.kind] = False
    found = trial.client.find(first.path)
    meaning = "what is new is made under a hidden name and moved: two requests"
    if len(found) > 1:
        return copes("a second item at the same path", meaning, **{name: "duplicate"})
    if first.is_dir:
        return copes("answered as if it were new", meaning, **{name: "overwrite"})
    if found and trial.bytes_of(found[0].id) == b"second":
        return copes("the new content takes the old one's place", meaning, **{name: "overwrite"})
    return copes("taken, and the old content stays", meaning, **{name: "ignore"})


def impossible_path(trial: Trial) -> Finding:
    """Create at a path with a component that is a dot. Raises ApiError."""
    try:
        trial.file("./dot")
    except WrongAnswerError:
        return copes("taken as another path", "a mount sends no such path", bad_path_status=200)
    except UnavailableError:
        raise
    except (BadRequestError, InvalidRequestError) as error:
        return good(
            f"refused with {error.status}", "a mount sends no such path", bad_path_status=error.status
        )
    return copes("taken as it is", "a mount neither sends nor shows such paths", bad_path_status=200)


def name_forms(trial: Trial) -> Finding:
    """Create files with names that servers keep in another form, or refuse. Raises ApiError."""
    changed = {}
    for form, (words, name) in _FORMS.items():
        try:
            trial.file(name)
        except (WrongAnswerError, BadRequestError, InvalidRequestError):
            changed[form] = words
    trial.facts["as_sent"] = not changed
    if not changed:
        return good("as they are sent", "a file is found by the name that it was given", name_form="as_sent")
    return (bad if "lower" in changed else copes)(
        f"not {' and not '.join(changed.values())}",
        "files and directories with such names fail (EIO), and are kept on this machine: give them other names",
        name_form="+".join(changed),
    )


def no_parent(trial: Trial) -> Finding:
    """Create a file in a directory that is not there. Raises ApiError."""
    try:
        trial.file("none/file")
    except NoDirectoryError as error:
        return good(
            f"refused with {error.status}",
            "directories are made before files",
            implicit_directories="refused",
        )
    except UnavailableError:
        raise
    except ApiError as error:
        return copes(
            f"refused with {error.status}", "as if the path were wrong", implicit_directories="refused"
        )
    return good("taken", "such directories are shown all the same", implicit_directories="allowed")

"""The questions in the order in which they are asked, and what becomes of one that is not answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jobfs.api import Known
from jobfs.errors import (
    JobfsError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
    WrongAnswerError,
)
from jobfs.nodes import Kind
from jobfs.trial import creates, moves, reading, saving, server
from jobfs.trial.asking import Finding, Row, Trial, Verdict, bad, good

#: Questions without an answer, one after another, after which the server is left alone.
_ENOUGH = 2
_AGAIN = "no mount shows it; the next `jobfs doctor JOB --try` takes it away"


class Question(NamedTuple):
    """A question: its name in reports, its words, and the function that asks it; without an `essential` one no other is asked."""

    name: str
    asked: str
    ask: Callable[[Trial], Finding]
    essential: bool = False


QUESTIONS = (
    Question("job", "Is the job known, and the key taken?", server.job, True),
    Question("left_before", "Has an earlier try left anything?", server.left_before),
    Question("directory", "May a directory be made?", creates.directory, True),
    Question("spelling", "How is an item written?", creates.spelling, True),
    Question("encodings", "Which bodies does a create take?", creates.encodings),
    Question("input_paths", "A path in the other style?", reading.other_style),
    Question("trailing_slash", "URLs with a slash at the end?", server.slash),
    Question("unknown_job", "A job that is not there?", server.unknown_job),
    Question("sizes", "Is the size of a file told?", creates.sizes),
    Question("existing_file", "Create a file where one is?", creates.existing_file),
    Question("existing_directory", "Create a directory where one is?", creates.existing_directory),
    Question("impossible_path", "Create at an impossible path?", creates.impossible_path),
    Question("name_forms", "How are names kept?", creates.name_forms),
    Question("no_parent", "Create where there is no directory?", creates.no_parent),
    Question("at_once", "Is what was written seen at once?", reading.at_once),
    Question("find", "What does find take a path for?", reading.find),
    Question("pages", "How many items has a page?", reading.pages),
    Question("order", "In which order is the list?", reading.order),
    Question("instance_items", "Items in the job's description?", server.instance_items),
    Question("to_free_path", "Move to a free path?", moves.to_free_path),
    Question("to_taken_path", "Move to a taken path?", moves.to_taken_path),
    Question("move_directory", "Move a directory?", moves.directory),
    Question("touches", "Whose updatedAt does a move change?", moves.touches),
    Question("fineness", "How fine are the times?", moves.fineness),
    Question("clock", "Is the server's clock right?", server.clock),
    Question("download", "Download a whole file?", reading.download),
    Question("by_range", "Download a part of it?", reading.by_range),
    Question("read_only", "Is readOnly kept?", moves.read_only),
    Question("lifecycle", "Is the lifecycle changed?", moves.lifecycle),
    Question("delete", "What does a delete answer?", moves.delete),
    Question("delete_directory", "Delete a directory that is not empty?", moves.delete_directory),
    Question("speed", "How fast is it?", server.speed),
    Question("save", "Save a file that the job replaces?", saving.conflict),
)


def run(trial: Trial) -> Iterator[Row]:
    """Ask one question after another; a row for each that is asked. Signals break it off between any two lines."""
    unanswered = 0
    for question in QUESTIONS:
        trial.watched.forget()
        finding = _ask(trial, question)
        yield Row(question.name, question.asked, finding, tuple(trial.watched.exchanges))
        unanswered = unanswered + 1 if finding.verdict is Verdict.NO_ANSWER else 0
        failed = finding.verdict in (Verdict.BAD, Verdict.NO_ANSWER)
        if (failed and question.essential) or unanswered >= _ENOUGH:
            return


def _ask(trial: Trial, question: Question) -> Finding:
    try:
        return question.ask(trial)
    except WrongAnswerError as error:
        return bad(_shortened(error), "what it does can't be relied on: mount this with --read-only")
    except UnavailableError as error:
        return Finding(_shortened(error), Verdict.NO_ANSWER, "asked again by the next --try")
    except UnauthorizedError as error:
        return bad(_shortened(error), "the API key may not do this: check PERSTACK_API_KEY or --api-key-file")
    except NotFoundError as error:
        known = "check the job id" if question.name == "job" else "what was just made is gone"
        return bad(_shortened(error), known)
    except JobfsError as error:
        return bad(_shortened(error), "not as the API reference says")


def clear(trial: Trial) -> Row | None:
    """Take everything away; the row that tells how that went, None if nothing had to be."""
    if not trial.began:
        return None
    trial.watched.forget()
    try:
        left = trial.place.clear()
        finding = (
            bad(f"{len(left)} items are left", _AGAIN)
            if left
            else good("all of it", "nothing is left of this")
        )
    except JobfsError as error:
        finding = bad(_shortened(error), _AGAIN)
    return Row("cleared", "Is everything taken away?", finding, tuple(trial.watched.exchanges))


def _shortened(error: JobfsError) -> str:
    text = str(error)
    return text if len(text) <= 200 else text[:199] + "…"


def known(trial: Trial) -> Known | None:
    """What mounts of this server can use of what was found; None if too little was."""
    facts = trial.facts
    forms, rejects = facts.get("forms", {}), facts.get("rejects", {})
    if len(forms) < len(Kind) or len(rejects) < len(Kind) or "carries" not in facts:
        return None
    if not facts.get("as_sent"):
        # No mount is to make anything straight at a name that may become another.
        rejects = dict.fromkeys(Kind, False)
    touched = facts.get("touched_file", True)
    return Known(forms, rejects, moves_keep_updated_at=not touched, moves_carry=facts["carries"])

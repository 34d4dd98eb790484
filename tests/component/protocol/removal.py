"""A model of its own for R12: removing a directory D into which the job may put something at any instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from .explorer import Search, Step, search
from .model import Rules


class Stage(StrEnum):
    """How far rmdir has come."""

    CALLED = "called"
    LISTED = "seen empty"
    UNANSWERED = "moved, without an answer"
    MOVED = "moved away, answered"
    EMPTY = "seen empty again"
    FULL = "seen to hold something"
    ENDED = "ended"


class Place(NamedTuple):
    """The directory: its name (D, hidden, beside, "" once deleted), what is in it, how far its removal has come.

    `again`: the job has made another directory D. `late`: a move to the hidden name that may still be carried out.
    """

    name: str = "D"
    inside: frozenset[str] = frozenset()
    stage: Stage = Stage.CALLED
    recorded: bool = False
    again: bool = False
    late: bool = False
    job: tuple[str, ...] = ("puts", "makes D again")
    kills: int = 1
    losses: int = 1
    #: What the job has written and nobody has deleted knowingly.
    owed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Removal:
    """Everything that can happen to a directory while it is removed."""

    rules: Rules
    name: str = "an empty directory is removed, the job puts a file into it"

    def explore(self, limit: int = 20_000) -> Search[Place]:
        """All of it, or the shortest way to a loss."""
        return search(Place(), self.steps, self.wrong, limit)

    @staticmethod
    def wrong(place: Place, at_rest: bool) -> str:
        """What must not be."""
        if not place.name and place.owed:
            return f"{', '.join(sorted(place.owed))} is lost"
        if at_rest and place.name == "hidden":
            return "D is left under a hidden name"
        if at_rest and place.stage is not Stage.ENDED:
            return "the removal never ends"
        return ""

    def steps(self, place: Place) -> Iterator[tuple[Step, Place]]:
        """What can happen next."""
        yield from self._job(place)
        if place.late:
            free = place._replace(late=False)
            yield Step("net", "the move is never carried out"), free
            if place.name not in ("", "hidden"):
                yield Step("net", "the move is carried out late"), free._replace(name="hidden")
        if place.kills and place.stage is not Stage.ENDED:
            yield Step("fate", "kills one"), self._restarted(place._replace(kills=place.kills - 1))
        yield from self._mount(place)

    @staticmethod
    def _restarted(place: Place) -> Place:
        """Without a record the removal was never begun; with one it is looked at again."""
        return place._replace(stage=Stage.MOVED if place.recorded else Stage.ENDED)

    @staticmethod
    def _job(place: Place) -> Iterator[tuple[Step, Place]]:
        if "puts" in place.job and place.name == "D":
            new = frozenset({"j"})
            left = tuple(act for act in place.job if act != "puts")
            yield Step("job", "puts a file into D"), place._replace(inside=new, owed=new, job=left)
        if "makes D again" in place.job and place.name != "D":
            left = tuple(act for act in place.job if act != "makes D again")
            yield Step("job", "makes D again"), place._replace(again=True, job=left)

    def _mount(self, place: Place) -> Iterator[tuple[Step, Place]]:
        if place.stage is Stage.CALLED:
            found = Stage.ENDED if place.inside else Stage.LISTED
            yield Step("one", "lists D", found), place._replace(stage=found)
        elif place.stage is Stage.LISTED and not self.rules.r12:
            yield Step("one", "deletes D"), self._deleted(place)
        elif place.stage is Stage.LISTED:
            yield from self._move(place._replace(recorded=True))
        elif place.stage is Stage.UNANSWERED:
            yield Step("one", "moves D away again"), place._replace(name="hidden", stage=Stage.MOVED)
        elif place.stage is Stage.MOVED and not place.late:
            # After the wait of R7.
            if place.name != "hidden":
                yield Step("one", "leaves D alone"), place._replace(stage=Stage.ENDED)
                return
            found = Stage.FULL if place.inside else Stage.EMPTY
            yield Step("one", "lists again", found), place._replace(stage=found)
        elif place.stage is Stage.EMPTY:
            yield Step("one", "deletes D"), self._deleted(place)
        elif place.stage is Stage.FULL:
            name = "beside" if place.again else "D"
            yield Step("one", f"gives it back as {name}"), place._replace(name=name, stage=Stage.ENDED)

    def _move(self, place: Place) -> Iterator[tuple[Step, Place]]:
        moved = place._replace(name="hidden", stage=Stage.MOVED)
        yield Step("one", "moves D away"), moved
        if place.losses:
            fewer = place._replace(losses=place.losses - 1, stage=Stage.UNANSWERED)
            yield Step("one", "moves D away", "dropped"), fewer
            yield Step("one", "moves D away", "late"), fewer._replace(late=True)
            yield Step("one", "moves D away", "done"), fewer._replace(name="hidden")
        if place.kills:
            yield Step("one", "moves D away", "killed after"), self._restarted(moved._replace(kills=0))
            late = place._replace(kills=0, late=True)
            yield Step("one", "moves D away", "killed, late"), self._restarted(late)

    @staticmethod
    def _deleted(place: Place) -> Place:
        """The server deletes what is in it, too."""
        return place._replace(name="", inside=frozenset(), stage=Stage.ENDED)

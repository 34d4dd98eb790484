"""A model of its own for R12: removing a directory D into which the job may put something at any instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .model import Search, Step, search
from .scenarios import Rule


class Place(NamedTuple):
    """The directory: its name (D, hidden, beside, "" once deleted), what is in it, how far its removal has come.

    `again`: the job has made another directory D. `late`: a move to the hidden name that may still be carried out.
    """

    name: str = "D"
    inside: str = ""
    stage: str = "called"
    recorded: bool = False
    again: bool = False
    late: bool = False
    job: tuple[str, ...] = ("puts a file into D", "makes D again")
    kills: int = 1
    losses: int = 1
    #: What the job has written and nobody has deleted knowingly.
    owed: str = ""


Steps = Iterator[tuple[Step, Place]]


@dataclass(frozen=True)
class Removal:
    """R12: all that can happen to a directory D while it is removed, into which the job may put something at any instant."""

    without: Rule = ""

    def explore(self, limit: int = 20_000) -> Search[Place]:
        """All of it, or the shortest way to a loss."""
        return search(Place(), self.steps, self.wrong, limit)

    @staticmethod
    def wrong(place: Place, at_rest: bool) -> str:
        """What must not be."""
        if not place.name and place.owed:
            return f"{place.owed} is lost"
        if at_rest and place.name == "hidden":
            return "D is left under a hidden name"
        return "the removal never ends" if at_rest and place.stage != "ended" else ""

    def steps(self, place: Place) -> Steps:
        """What can happen next."""
        for act, acted in self._job(place):
            if act in place.job:
                job = tuple(other for other in place.job if other != act)
                yield Step("job", act), acted._replace(job=job)
        if place.late:
            free = place._replace(late=False)
            yield Step("net", "the move is never carried out"), free
            if place.name not in ("", "hidden"):
                yield Step("net", "the move is carried out late"), free._replace(name="hidden")
        if place.kills and place.stage != "ended":
            yield Step("fate", "kills the mount, one"), self._killed(place)
        for act, outcome, after in self._mount(place):
            yield Step("one", act, outcome), after

    @staticmethod
    def _killed(place: Place) -> Place:
        """Without a record the removal was never begun; with one it is looked at again."""
        return place._replace(kills=0, stage="moved away, answered" if place.recorded else "ended")

    @staticmethod
    def _job(place: Place) -> Iterator[tuple[str, Place]]:
        if place.name == "D":
            yield "puts a file into D", place._replace(inside="j", owed="j")
        else:
            yield "makes D again", place._replace(again=True)

    def _mount(self, place: Place) -> Iterator[tuple[str, str, Place]]:
        # The server deletes what is in it, too.
        deleted = place._replace(name="", inside="", stage="ended")
        if place.stage == "called":
            found = "ended" if place.inside else "seen empty"
            yield "lists D", found, place._replace(stage=found)
        elif place.stage == "seen empty" and self.without != "r12":
            yield from self._move(place._replace(recorded=True))
        elif place.stage in ("seen empty", "seen empty again"):
            yield "deletes D", "", deleted
        elif place.stage == "moved, without an answer":
            yield "moves D away again", "", place._replace(name="hidden", stage="moved away, answered")
        elif place.stage == "moved away, answered" and not place.late and place.name != "hidden":
            yield "leaves D alone", "", place._replace(stage="ended")
        elif place.stage == "moved away, answered" and not place.late:
            # After the wait of R7.
            found = "seen to hold something" if place.inside else "seen empty again"
            yield "lists again", found, place._replace(stage=found)
        elif place.stage == "seen to hold something":
            name = "beside" if place.again else "D"
            yield f"gives it back as {name}", "", place._replace(name=name, stage="ended")

    def _move(self, place: Place) -> Iterator[tuple[str, str, Place]]:
        moved = place._replace(name="hidden", stage="moved away, answered")
        yield "moves D away", "", moved
        if place.losses:
            fewer = place._replace(losses=0, stage="moved, without an answer")
            yield "moves D away", "never", fewer
            yield "moves D away", "late", fewer._replace(late=True)
            yield "moves D away", "at once", fewer._replace(name="hidden")
        if place.kills:
            yield "moves D away", "killed after", self._killed(moved)
            yield "moves D away", "killed, late", self._killed(place._replace(late=True))

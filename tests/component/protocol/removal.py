"""A model of its own for R12: removing a directory D into which the job may put something at any instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .model import Rule, Search, Step, search


class Place(NamedTuple):
    """The directory: its name (D, hidden, beside, "" once deleted), what is in it, how far its removal has come.

    `again`: the job has made another directory D. `late`: a move to the hidden name that may still be carried out.
    """

    name: str = "D"
    inside: frozenset[str] = frozenset()
    stage: str = "called"
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
    """R12: all that can happen to a directory D while it is removed, into which the job may put something at any instant."""

    without: Rule = ""

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
        if at_rest and place.stage != "ended":
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
        if place.kills and place.stage != "ended":
            yield Step("fate", "kills the mount, one"), self._restarted(place._replace(kills=place.kills - 1))
        yield from self._mount(place)

    @staticmethod
    def _restarted(place: Place) -> Place:
        """Without a record the removal was never begun; with one it is looked at again."""
        return place._replace(stage="moved away, answered" if place.recorded else "ended")

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
        if place.stage == "called":
            found = "ended" if place.inside else "seen empty"
            yield Step("one", "lists D", found), place._replace(stage=found)
        elif place.stage == "seen empty" and self.without == "r12":
            yield Step("one", "deletes D"), self._deleted(place)
        elif place.stage == "seen empty":
            yield from self._move(place._replace(recorded=True))
        elif place.stage == "moved, without an answer":
            yield (
                Step("one", "moves D away again"),
                place._replace(name="hidden", stage="moved away, answered"),
            )
        elif place.stage == "moved away, answered" and not place.late:
            # After the wait of R7.
            if place.name != "hidden":
                yield Step("one", "leaves D alone"), place._replace(stage="ended")
                return
            found = "seen to hold something" if place.inside else "seen empty again"
            yield Step("one", "lists again", found), place._replace(stage=found)
        elif place.stage == "seen empty again":
            yield Step("one", "deletes D"), self._deleted(place)
        elif place.stage == "seen to hold something":
            name = "beside" if place.again else "D"
            yield Step("one", f"gives it back as {name}"), place._replace(name=name, stage="ended")

    def _move(self, place: Place) -> Iterator[tuple[Step, Place]]:
        moved = place._replace(name="hidden", stage="moved away, answered")
        yield Step("one", "moves D away"), moved
        if place.losses:
            fewer = place._replace(losses=place.losses - 1, stage="moved, without an answer")
            yield Step("one", "moves D away", "never"), fewer
            yield Step("one", "moves D away", "late"), fewer._replace(late=True)
            yield Step("one", "moves D away", "at once"), fewer._replace(name="hidden")
        if place.kills:
            yield Step("one", "moves D away", "killed after"), self._restarted(moved._replace(kills=0))
            late = place._replace(kills=0, late=True)
            yield Step("one", "moves D away", "killed, late"), self._restarted(late)

    @staticmethod
    def _deleted(place: Place) -> Place:
        """The server deletes what is in it, too."""
        return place._replace(name="", inside=frozenset(), stage="ended")

"""A schedule of the model, played against the real mount: cues at its requests, deaths, lost and late answers, a real job.

A step of the job or of fate has its place between two requests. Where the mount changes something next, and only looked since
its last change, the cue is right before that request; else right after the last one. `Script` waits for its cues in order; what
the real mount never comes to (it has the rule that the model's lacked) happens after it has come to rest.

What has no like here: `journal lost` is the journal as of its last sync (tests/support/powerloss.py), and the local bytes that
were not synced are gone with it; a long upload is one that the server begins late.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from .explorer import Step

#: What a step of the model is in requests of the client.
_CHANGES = {
    "creates": "create_file", "sets": "update", "promotes": "update", "gives": "update", "keeps": "update",
    "shows": "update", "deletes": "delete", "takes an": "delete", "discards": "delete",
}  # fmt: skip
_USER = ("opens", "truncates", "saves", "renames", "moves", "makes", "unlinks", "hides")
#: One request, too.
_MOVES = "moves T away"
#: Outcomes of a request, as faults of the local server.
_FAULTS = {"dropped": "drop", "done": "drop_after", "late": "late"}
_OPERATIONS = {"create_file": "create"}


class Cue(NamedTuple):
    """At the `nth` time of `boundary` in this life, or later: `what` happens."""

    boundary: str
    nth: int
    what: str


@dataclass
class Life:
    """From a mount to its end: what its user and the job do in order, what happens at cues, and how it ends."""

    program: list[str] = field(default_factory=list)
    cues: deque[Cue] = field(default_factory=deque)
    wiped: bool = False


def lives(schedule: Iterable[Step], rest: Iterable[str] = ()) -> list[Life]:
    """The schedule as programs and cues, a life for each time that the mount came back; then the user's `rest`."""
    steps = list(schedule)
    cuts = [0, *(number for number, step in enumerate(steps) if step.act == "comes back"), len(steps)]
    never = {step.act.split()[0] for step in steps if step.act.endswith("never carried out")}
    found = [_Translator(steps[first:last], never).life for first, last in pairwise(cuts)]
    for act in rest:
        if act == "move":
            found[-1].program.append(_MOVES)
        elif act.startswith("save "):
            _append(found[-1].program, act.replace("save ", "saves "))
    return found


def _append(program: list[str], act: str) -> None:
    """One more thing that the user does; what is saved first, or under a name that is free again, is opened before."""
    if act.startswith("saves") and (not program or program[-1] == _MOVES):
        program.append("opens T")
    program.append(act)


def changes(act: str) -> str:
    """The changing request that a step of the mount sends, or ""."""
    return next((request for start, request in _CHANGES.items() if act.startswith(start)), "")


class _Translator:
    def __init__(self, steps: list[Step], never: set[str]) -> None:
        self.life = Life()
        self._steps = steps
        self._never = never
        self._sent: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        #: Where the last request that changed something has ended; whether the mount has only looked since then.
        self._last = ""
        self._looked = False
        for number, step in enumerate(steps):
            self._translate(number, step)

    def _translate(self, number: int, step: Step) -> None:
        if step.actor in ("job", "net", "fate"):
            self._around(number, step)
        elif step.act.startswith(_USER):
            self._user(number, step)
        elif request := changes(step.act):
            self._request(step, request)
        elif step.act.startswith(("syncs", "frees")):
            self._last = ""
        elif step.act != "comes back":
            self._looked = True

    def _user(self, number: int, step: Step) -> None:
        if step.act.startswith("unlinks"):
            self._cue(number, "user unlinks")
            return
        self._looked = False
        _append(self.life.program, step.act)
        if step.act == _MOVES:
            self._sent["update"] += 1
            self._last = "after update"
            self._ended[self._last] += 1

    def _request(self, step: Step, request: str) -> None:
        self._sent[request] += 1
        count = self._sent[request]
        killed, _, _ = step.outcome.partition(",")
        if step.outcome in _FAULTS:
            late = step.outcome == "late" and "move" not in self._never
            fault = "drop" if step.outcome == "late" and not late else _FAULTS[step.outcome]
            on = _OPERATIONS.get(request, request)
            self.life.cues.append(Cue(f"before {request}", count, f"fault {fault} {on}"))
        elif killed.startswith("killed"):
            self.life.cues.append(
                Cue(f"{'after' if killed.endswith('after') else 'before'} {request}", count, "death")
            )
        self._last = f"{'failed' if step.outcome else 'after'} {request}"
        self._ended[self._last] += 1
        self._looked = False

    def _around(self, number: int, step: Step) -> None:
        what = f"{step.actor} {step.act}"
        if step.act.startswith("loses the state directory"):
            self.life.wiped = True
        elif step.act.endswith("never carried out") or step.act.startswith("syncs"):
            return
        elif step.act.startswith("makes the upload"):
            self.life.cues.append(
                Cue("before create_file", self._sent["create_file"] + 1, "fault slow create")
            )
        elif step.act.startswith("kills"):
            self._cue(number, "death")
        elif step.act.startswith("cuts"):
            self._cue(number, "power")
        elif step.act.endswith("late"):
            self._cue(number, "net carries out what is late")
        elif not self._last and not self._looked and not self._sent:
            self._before_program(what)
        else:
            self._cue(number, what)

    def _before_program(self, what: str) -> None:
        """Nothing was sent yet: the job acts before the save or rename is called, after the open."""
        at = len(self.life.program)
        if not at and self._opens_a_new_file():
            self.life.program.append("opens T")
            at = 1
        if at and self.life.program[-1].startswith(("saves", "renames")):
            at -= 1
        self.life.program.insert(at, what)

    def _opens_a_new_file(self) -> bool:
        """What is saved first was opened when nothing was there."""
        first = next((step.act for step in self._steps if step.act.startswith(_USER)), "")
        return first.startswith("saves")

    def _cue(self, number: int, what: str) -> None:
        following = next(
            (r for step in self._steps[number + 1 :] if step.actor == "one" and (r := changes(step.act))), ""
        )
        if self._last and not (self._looked and following):
            cue = Cue(self._last, self._ended[self._last], what)
        else:
            request = following or ("delete" if self._sent else "create_file")
            cue = Cue(f"before {request}", self._sent[request] + 1, what)
        self.life.cues.append(cue)

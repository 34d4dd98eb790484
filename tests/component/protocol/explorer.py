"""Breadth-first search of everything that can happen: the shortest way to a state that must not be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple):
    """Who does what, and what becomes of it; `outcome` is empty where nothing goes wrong."""

    actor: str
    act: str
    outcome: str = ""

    @property
    def optional(self) -> bool:
        """True for what may or may not happen: a state where nothing else is left is at rest."""
        return self.actor in ("job", "fate")

    def __str__(self) -> str:
        return f"{self.actor}: {self.act}" + (f" [{self.outcome}]" if self.outcome else "")


class Search(NamedTuple, Generic[S]):
    """What a search saw; `violation` is empty if no state was wrong, else `schedule` leads there."""

    states: int
    violation: str
    schedule: tuple[Step, ...]
    last: S | None

    def story(self) -> str:
        """The schedule, one step a line."""
        steps = "\n".join(f"  {number:2} {step}" for number, step in enumerate(self.schedule, 1))
        return f"{steps}\n  => {self.violation}"


def search(
    start: S, steps: Callable[[S], Iterable[tuple[Step, S]]], wrong: Callable[[S, bool], str], limit: int
) -> Search[S]:
    """Visits every state that can be reached from `start`, nearest first, until one is wrong.

    `wrong(state, at_rest)` says what is wrong with a state, "" if nothing.
    AssertionError after `limit` states: the scenario is too large to be searched whole.
    """
    came: dict[S, tuple[Step, S] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        following = list(steps(state))
        if what := wrong(state, all(step.optional for step, _ in following)):
            return Search(len(came), what, _way(came, state), state)
        for step, new in following:
            if new not in came:
                came[new] = (step, state)
                queue.append(new)
        assert len(came) <= limit, f"more than {limit} states"
    return Search(len(came), "", (), None)


def _way(came: dict[S, tuple[Step, S] | None], state: S) -> tuple[Step, ...]:
    way = []
    while (entry := came[state]) is not None:
        step, state = entry
        way.append(step)
    return tuple(reversed(way))

"""The vocabulary of results: a sample, a row of the table with its goals, and an outcome, which combines both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

#: The round trip at which the goals of most rows apply, in seconds.
GOAL_RTT = 0.05


@dataclass
class Sample:
    """One measurement, whose result was verified: seconds, and the cost (None: unknown)."""

    seconds: float
    requests: float | None = None
    moved: float | None = None
    cpu: float | None = None
    facts: dict[str, float] = field(default_factory=dict)


class Measured(NamedTuple):
    """A sample for a row; `system` names the system that was measured, if it is not the one under test."""

    row: str
    sample: Sample
    system: str = ""


@dataclass(frozen=True)
class Goal:
    """A target: `value` of an outcome (None: not measured) must be at most, or at least, `limit`."""

    text: str
    value: Callable[[Outcome], float | None]
    limit: float
    at_least: bool = False

    def met(self, outcome: Outcome) -> bool | None:
        """Return whether the goal is met; None if it was not measured."""
        value = self.value(outcome)
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit

    def found(self, outcome: Outcome) -> str:
        """Return the value that was found, and the goal."""
        value = self.value(outcome)
        return "" if value is None else f"{value:.3g} (wanted {self.text})"


@dataclass(frozen=True)
class Row:
    """One line of the table. `bound` returns seconds for a round trip; goals apply at `rtt` (None: at any)."""

    key: str
    title: str
    bound: Callable[[float], float] = lambda rtt: 0.0
    goals: tuple[Goal, ...] = ()
    rtt: float | None = GOAL_RTT


@dataclass
class Outcome:
    """A row at one round trip (seconds): the samples of every system, and why some have none."""

    row: Row
    rtt: float
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, system: str, of: str = "seconds") -> float | None:
        """Return the median over the runs of a system; `of` is a field of Sample or a fact."""
        values = [
            sample.facts[of] if of in sample.facts else getattr(sample, of, None)
            for sample in self.samples.get(system, ())
        ]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    @property
    def bound(self) -> float | None:
        """Return the minimum that the network allows, in seconds; None if it sets none."""
        return self.row.bound(self.rtt) or None

    @property
    def unsynced(self) -> list[str]:
        """Return the systems whose fsync returned before the server had the bytes."""
        return [name for name in self.samples if self.median(name, "synced") == 0]

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """Return the best peer and its seconds, among those that keep the same promise."""
        found = [
            (name, seconds)
            for name in self.samples
            if name not in ("jobfs", "floor", "curl", *self.unsynced)
            and (seconds := self.median(name)) is not None
        ]
        return min(found, key=lambda pair: pair[1], default=None)

    def met(self) -> bool | None:
        """Return whether every goal that was measured is met; None if none was, or if none applies at this round trip."""
        verdicts = [goal.met(self) for goal in self.goals if goal.met(self) is not None]
        return all(verdicts) if verdicts else None

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Return the goals that apply at this round trip."""
        return self.row.goals if self.row.rtt in (None, self.rtt) else ()

    def misses(self) -> list[str]:
        """Return each goal that is not met, with the value that was found."""
        return [goal.found(self) for goal in self.goals if goal.met(self) is False]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def round_trips(limit: float) -> Goal:
    """Return a goal: at most so many round trips."""
    return Goal(f"<= {limit:g} rt", lambda o: _ratio(o.median("jobfs"), o.rtt), limit)


def requests(limit: float) -> Goal:
    """Return a goal: at most so many requests, including those of the background."""
    return Goal(f"<= {limit:g} req", lambda o: o.median("jobfs", "requests"), limit)


def of_bound(limit: float) -> Goal:
    """Return a goal: at most so many times the bound."""
    return Goal(f"<= {limit:g} x bound", lambda o: _ratio(o.median("jobfs"), o.bound), limit)


def of_system(name: str, limit: float) -> Goal:
    """Return a goal: at most so many times the seconds of that system."""
    return Goal(f"<= {limit:g} x {name}", lambda o: _ratio(o.median("jobfs"), o.median(name)), limit)


def ahead_of_peers(factor: float) -> Goal:
    """Return a goal: so many times as fast as the best peer."""
    return Goal(
        f">= {factor:g} x peer",
        lambda o: _ratio(o.best_peer and o.best_peer[1], o.median("jobfs")),
        factor,
        True,
    )


def ahead_of(name: str, factor: float) -> Goal:
    """Return a goal: so many times as fast as that peer."""
    return Goal(f">= {factor:g} x {name}", lambda o: _ratio(o.median(name), o.median("jobfs")), factor, True)


def at_most(fact: str, limit: float, text: str) -> Goal:
    """Return a goal: a fact, or a field of Sample, is at most `limit`."""
    return Goal(text, lambda o: o.median("jobfs", fact), limit)

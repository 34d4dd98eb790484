"""The vocabulary of results: a sample, a row of the table with its goals, and an outcome, which is both together."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

#: The round trip at which the goals of most rows hold, in seconds.
GOAL_RTT = 0.05


@dataclass
class Sample:
    """One measurement, its answer verified: seconds, and what they cost (None: not known)."""

    seconds: float
    requests: float | None = None
    moved: float | None = None
    cpu: float | None = None
    facts: dict[str, float] = field(default_factory=dict)


class Measured(NamedTuple):
    """A sample of a row; `system` is who it is of, if not the system whose turn it is."""

    row: str
    sample: Sample
    system: str = ""


@dataclass(frozen=True)
class Goal:
    """A target: `value` of an outcome (None: not measured this time) is to be at most, or at least, `limit`."""

    text: str
    value: Callable[[Outcome], float | None]
    limit: float
    at_least: bool = False

    def met(self, outcome: Outcome) -> bool | None:
        """Whether it is; None if that was not measured."""
        value = self.value(outcome)
        if value is None:
            return None
        return value >= self.limit if self.at_least else value <= self.limit

    def found(self, outcome: Outcome) -> str:
        """What was found, and what was wanted."""
        value = self.value(outcome)
        return "" if value is None else f"{value:.3g} (wanted {self.text})"


@dataclass(frozen=True)
class Row:
    """One line of the table. `bound` gives seconds from a round trip; goals hold at `rtt` (None: at any)."""

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
        """The median over the runs of a system; `of` is a field of Sample or a fact."""
        values = [
            sample.facts[of] if of in sample.facts else getattr(sample, of, None)
            for sample in self.samples.get(system, ())
        ]
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    @property
    def bound(self) -> float | None:
        """The least that the line allows, in seconds; None if it sets no bound."""
        return self.row.bound(self.rtt) or None

    @property
    def unsynced(self) -> list[str]:
        """Systems whose fsync returned before the server had the bytes."""
        return [name for name in self.samples if self.median(name, "synced") == 0]

    @property
    def peer(self) -> tuple[str, float] | None:
        """The best peer and its seconds, of those that keep the same promise."""
        found = [
            (name, seconds)
            for name in self.samples
            if name not in ("jobfs", "floor", "curl", *self.unsynced)
            and (seconds := self.median(name)) is not None
        ]
        return min(found, key=lambda pair: pair[1], default=None)

    def met(self) -> bool | None:
        """Whether every goal that could be measured is met; None if none could, or none holds at this rtt."""
        verdicts = [goal.met(self) for goal in self.goals if goal.met(self) is not None]
        return all(verdicts) if verdicts else None

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals that hold at this round trip."""
        return self.row.goals if self.row.rtt in (None, self.rtt) else ()

    def misses(self) -> list[str]:
        """Each goal that is not met, with what was found."""
        return [goal.found(self) for goal in self.goals if goal.met(self) is False]


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def round_trips(limit: float) -> Goal:
    """At most so many round trips."""
    return Goal(f"<= {limit:g} rt", lambda o: _ratio(o.median("jobfs"), o.rtt), limit)


def requests(limit: float) -> Goal:
    """At most so many requests, those of the background counted in."""
    return Goal(f"<= {limit:g} req", lambda o: o.median("jobfs", "requests"), limit)


def of_bound(limit: float) -> Goal:
    """At most so many times the bound."""
    return Goal(f"<= {limit:g} x bound", lambda o: _ratio(o.median("jobfs"), o.bound), limit)


def of_system(name: str, limit: float) -> Goal:
    """At most so many times what that system took."""
    return Goal(f"<= {limit:g} x {name}", lambda o: _ratio(o.median("jobfs"), o.median(name)), limit)


def ahead_of_peers(factor: float) -> Goal:
    """So many times as fast as the best peer."""
    return Goal(
        f">= {factor:g} x peer", lambda o: _ratio(o.peer and o.peer[1], o.median("jobfs")), factor, True
    )


def ahead_of(name: str, factor: float) -> Goal:
    """So many times as fast as that peer."""
    return Goal(f">= {factor:g} x {name}", lambda o: _ratio(o.median(name), o.median("jobfs")), factor, True)


def at_most(fact: str, limit: float, text: str) -> Goal:
    """A fact, or a field of Sample, that is at most so much."""
    return Goal(text, lambda o: o.median("jobfs", fact), limit)

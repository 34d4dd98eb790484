"""What a lane has done so far, and what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Tally:
    """`written` in bytes acknowledged; `seconds` of play; `reports`: one text for each round with a violation."""

    rounds: int = 0
    kills: int = 0
    recovery_kills: int = 0
    acknowledged: int = 0
    written: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Adds what another lane did at the same time: its seconds do not count again."""
        self.rounds += other.rounds
        self.kills += other.kills
        self.recovery_kills += other.recovery_kills
        self.acknowledged += other.acknowledged
        self.written += other.written
        self.seconds = max(self.seconds, other.seconds)
        self.violations += other.violations
        self.reports += other.reports

    def line(self) -> str:
        """One line that `of_line` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Tally:
        """What `line` wrote."""
        return cls(**json.loads(line))

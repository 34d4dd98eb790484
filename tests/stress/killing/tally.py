"""What a lane has done so far, and what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


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

    def __add__(self, other: Tally) -> Tally:
        """With what another lane did."""
        theirs: dict[str, Any] = asdict(other)
        return Tally(**{name: value + theirs[name] for name, value in asdict(self).items()})

    def line(self) -> str:
        """One line that `of_line` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def of_line(cls, line: str) -> Tally:
        """What `line` wrote."""
        return cls(**json.loads(line))

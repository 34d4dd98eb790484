"""What a question of a try comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jobfs.api.watched import Exchange


class Verdict(StrEnum):
    """Whether an answer is good: as wished; otherwise, but jobfs copes; not to be relied on; none came; not asked."""

    GOOD = "good"
    COPES = "works"
    BAD = "NOT GOOD"
    NO_ANSWER = "no answer"
    SKIPPED = "not asked"


@dataclass(frozen=True)
class Finding:
    """An answer in words, whether it is good, and what it means for a mount; `facts` say the same to programs."""

    answered: str
    verdict: Verdict = Verdict.GOOD
    meaning: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A question, its finding, and the requests that it took."""

    name: str
    asked: str
    finding: Finding
    exchanges: tuple[Exchange, ...] = ()

    @property
    def well(self) -> bool:
        """False where something that mounts rely on is not as it has to be, or is not known."""
        return self.finding.verdict not in (Verdict.BAD, Verdict.NO_ANSWER)


def good(answered: str, meaning: str = "", **facts: Any) -> Finding:
    """A finding that is as wished."""
    return Finding(answered, Verdict.GOOD, meaning, facts)


def copes(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that costs something, and no more."""
    return Finding(answered, Verdict.COPES, meaning, facts)


def bad(answered: str, meaning: str, **facts: Any) -> Finding:
    """A finding that a promise of jobfs does not survive."""
    return Finding(answered, Verdict.BAD, meaning, facts)

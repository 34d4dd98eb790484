"""What one chapter of a lane is played under: the server's switches, faults, the job's zeal, the mount's options."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args, get_origin

from tests.support.interferences import FAULTS, UNANSWERED, Scene

from jobfs.emulator import Behaviour, Rule
from jobfs.emulator.behaviour import SWITCHES

#: Switches that are no question of right or wrong here, that others set, or that refuse some of the names here. Where a
#: directory does not carry what is in it, no rename of one is atomic: killed in the middle of it, both names are there.
_LEFT_ALONE = (
    "other_encoding", "page_cap", "latency", "bandwidth", "clock_skew", "move_carries", "move_existing", "read_only",
    "name_form", "move_work", "move_locked",
)  # fmt: skip
#: Not answers that no server gives (of another item), and what only takes time.
_FAULTS = [fault for fault in FAULTS if fault.kind not in ("odd_item", "slow")]
#: The kinds after which nothing comes until the time is up.
_HANGS = frozenset(fault.kind for fault in _FAULTS if fault.is_slow)


@dataclass(slots=True)
class Conditions:
    """`faults` are in force from the load to the end of the recovery's first moments; `calm`: nothing goes wrong at all."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    faults: tuple[Rule, ...] = ()
    #: Mean seconds between two steps of the job; 0: it is quiet.
    job_pause: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    #: A program watches the mount, so that it is told of what the job does.
    watched: bool = False

    @property
    def calm(self) -> bool:
        """True if no call may fail and no second version may appear."""
        return not self.faults and not self.job_pause

    @property
    def doubtful(self) -> bool:
        """True if nothing tells a change by the job from our own, or from what was there a moment before (R1).

        Renaming a directory may change what is in it; where `updatedAt` has whole seconds, a write or a move may look like the
        one before; and where answers are lost, nobody knows what was done.
        """
        coarse = self.behaviour.updated_resolution == "seconds"
        lost = any(rule.kind in UNANSWERED for rule in self.faults)
        return lost or coarse or self.behaviour.move_touches == "tree"

    @property
    def lateness(self) -> float:
        """Seconds after which every request is carried out whose connection has died; if there are any, names may flip."""
        return max((rule.delay + 0.1 for rule in self.faults if rule.kind == "late"), default=0.0)

    @property
    def patience(self) -> float:
        """Seconds after which no request is under way any more that was sent before."""
        hangs = any(rule.kind in _HANGS for rule in self.faults)
        return float(self.options["timeout" if hangs else "request_lifetime"])

    def __str__(self) -> str:
        values = asdict(self.behaviour).items()
        switches = {name: value for name, value in values if value != SWITCHES[name].default}
        return f"{switches}, {self.faults}, job every {self.job_pause} s, {self.options}, watched: {self.watched}"


def drawn(rng: random.Random) -> Conditions:
    """Conditions at random."""
    faults = [_fault(rng) for _ in range(rng.randint(1, 2) if rng.random() < 0.45 else 0)]
    hangs = any(rule.kind in _HANGS for rule in faults)
    options: dict[str, Any] = {"request_lifetime": 0.5, "timeout": 2 if hangs else 10}
    options["write_back_delay"] = rng.choice([0, 0.05, 0.3])
    pause = rng.choice([0.0, 0.03, 0.1]) if rng.random() < 0.6 else 0.0
    return Conditions(_behaviour(rng), tuple(faults), pause, options, watched=rng.random() < 0.5)


def _behaviour(rng: random.Random) -> Behaviour:
    changes: dict[str, Any] = {"latency": rng.choice([0, 0, 1, 5, 15])}
    if rng.random() < 0.5:
        changes["page_cap"] = rng.choice([7, 20, 100])
        for name, info in SWITCHES.items():
            if name not in _LEFT_ALONE and rng.random() < 0.4:
                if info.annotation is bool:
                    changes[name] = rng.choice([True, False])
                elif get_origin(info.annotation) is Literal:
                    changes[name] = rng.choice(get_args(info.annotation))
    return Behaviour().with_changes(**changes)


def _fault(rng: random.Random) -> Rule:
    """Play a row of the list: it makes the rule, for some of the requests."""
    fault, made = rng.choice(_FAULTS), list[Rule]()
    on = "change" if fault.is_slow else rng.choice(["change", "*", "create", "update", "delete"])
    on = {"late": "change", "undone": "update", "throttled": rng.choice(["*", "change"])}.get(fault.kind, on)
    rate = {"throttled": 0.1}.get(fault.kind, 0.02 if fault.is_slow else rng.choice([0.03, 0.1, 0.25]))
    fault.act(
        Scene("", None, fault=lambda kind, **more: made.append(Rule(kind, on, rate, delay=0.2, **more)))
    )
    return made[0]

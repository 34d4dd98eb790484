"""The scenarios: each small enough to be searched whole, together they exercise every rule and every state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .model import SOURCE, TARGET, Scenario

#: There before: a file at T, and the source of a rename.
BOTH = ((TARGET, "o"), (SOURCE, "s"))


def scenario(users: list[str], job: str = "", **more: Any) -> Scenario:
    """What the user of each mount does, one thing after another, and what the job may do, in any order."""
    return Scenario("", tuple(map(_acts, users)), _acts(job), **more)


def _acts(told: str) -> tuple[str, ...]:
    return tuple(told.split(", ")) if told else ()


_BY_NAME = {
    "a state directory is lost for good": scenario(["open, save u1"], kills=1, wipes=1),
    "a directory is made where the job creates one": scenario(["mkdir d"], "create", there=(), kills=1),
    "an open file is removed while the job replaces it": scenario(["remove"], "overwrite, create", kills=1),
    "a rename over is refused, and so is all that would undo it": scenario(
        ["open, rename"], "create, overwrite", there=BOTH, kills=1, refusals=1
    ),
    "the job overwrites after a promote whose answer was lost": scenario(
        ["open, save u1, save u2"], "overwrite", losses=1, lost=("done",), losing=("promotes",)
    ),
    "the job overwrites within one tick of the server's clock": scenario(
        ["open, save u1"], "overwrite, overwrite", kills=1, one_tick=True
    ),
    "the source of a rename over vanishes": scenario(
        ["open, rename"], "create, delete source", there=BOTH, kills=1, losses=1
    ),
    "power is lost while an aside is deleted late": scenario(
        ["open, save u1"], "delete, overwrite", powers=1, losses=1, lost=("late",), losing=("deletes",)
    ),
    "the job moves the target away during a long upload": scenario(
        ["open, save u1"], "create, rename", slow=1
    ),
    "truncated without a read, on a server where moves change updatedAt": scenario(
        ["truncate, save u1"], "overwrite, create", kills=1, moves_touch=True
    ),
    "a new file that the job creates too": scenario(
        ["save u1"], "create, overwrite", there=(), kills=1, losses=1
    ),
    "a new file straight at its name, on a server that rejects what exists": scenario(
        ["save u1, unlink"],
        "create, overwrite, delete",
        there=(),
        kills=1,
        losses=1,
        losing=("creates", "promotes"),
        create_replaces=False,
        known_to_reject=True,
    ),
    "unlinked while it is saved": scenario(
        ["open, save u1, unlink"],
        "overwrite",
        kills=1,
        losses=1,
        losing=("creates", "sets aside", "promotes"),
    ),
    "a promote is carried out late, the job deletes and overwrites": scenario(
        ["open, save u1, save u2"], "delete, overwrite", losses=1, lost=("late",), losing=("promotes",)
    ),
    "a save in place, a kill, a lost answer, the job overwrites and creates": scenario(
        ["open, save u1"], "create, overwrite", kills=1, losses=1
    ),
    "a save in place, a kill, the job deletes, creates and moves away": scenario(
        ["open, save u1"], "create, delete, rename", kills=1, slow=1
    ),
    "a promote is carried out late, when T has been moved away and is saved anew": scenario(
        ["save u1, move, open, save u2"], there=(), losses=1, lost=("late",), losing=("promotes",)
    ),
    "two mounts save one file, an answer is lost": scenario(
        ["open, save u1", "open, save v1"], losses=1, losing=("sets aside", "promotes")
    ),
    "two mounts save one file, a kill": scenario(["open, save u1", "open, save v1"], kills=1),
    "two mounts save one file, the job overwrites": scenario(["open, save u1", "open, save v1"], "overwrite"),
}
SCENARIOS = [replace(each, name=name) for name, each in _BY_NAME.items()]

"""The scenarios: each small enough to be searched whole, together they exercise every rule and every state."""

from __future__ import annotations

from .model import SOURCE, TARGET, Scenario

SCENARIOS = [
    Scenario(
        "a state directory is lost for good",
        users=(("open", "save u1"),),
        kills=1,
        wipes=1,
    ),
    Scenario(
        "a directory is made where the job creates one",
        users=(("mkdir d",),),
        job=("create",),
        there=(),
        kills=1,
    ),
    Scenario(
        "an open file is removed while the job replaces it",
        users=(("remove",),),
        job=("overwrite", "create"),
        kills=1,
    ),
    Scenario(
        "an open file is hidden, and unlinked after all",
        users=(("hide", "confirm"),),
        job=("create",),
        kills=1,
    ),
    Scenario(
        "the job overwrites after a promote whose answer was lost",
        users=(("open", "save u1", "save u2"),),
        job=("overwrite",),
        losses=1,
        lost=("done",),
        losing=("promotes",),
    ),
    Scenario(
        "the source of a rename over vanishes",
        users=(("open", "rename"),),
        job=("create", "delete source"),
        there=((TARGET, "o"), (SOURCE, "s")),
        kills=1,
        losses=1,
    ),
    Scenario(
        "power is lost while an aside is deleted late",
        users=(("open", "save u1"),),
        job=("delete", "overwrite"),
        powers=1,
        losses=1,
        lost=("late",),
        losing=("deletes",),
    ),
    Scenario(
        "the job moves the target away during a long upload",
        users=(("open", "save u1"),),
        job=("create", "rename"),
        slow=1,
    ),
    Scenario(
        "truncated without a read, on a server where moves change updatedAt",
        users=(("truncate", "save u1"),),
        job=("overwrite", "create"),
        moves_touch=True,
        kills=1,
    ),
    Scenario(
        "a new file that the job creates too",
        users=(("save u1",),),
        job=("create", "overwrite"),
        there=(),
        kills=1,
        losses=1,
    ),
    Scenario(
        "unlinked while it is saved",
        users=(("open", "save u1", "unlink"),),
        job=("overwrite",),
        kills=1,
        losses=1,
        losing=("creates", "sets aside", "promotes"),
    ),
    Scenario(
        "a promote is carried out late, the job deletes and overwrites",
        users=(("open", "save u1", "save u2"),),
        job=("delete", "overwrite"),
        losses=1,
        lost=("late",),
        losing=("promotes",),
    ),
    Scenario(
        "a save in place, a kill, a lost answer, the job overwrites and creates",
        users=(("open", "save u1"),),
        job=("create", "overwrite"),
        kills=1,
        losses=1,
    ),
    Scenario(
        "a save in place, a kill, the job deletes, creates and moves away",
        users=(("open", "save u1"),),
        job=("create", "delete", "rename"),
        kills=1,
        slow=1,
    ),
    Scenario(
        "two mounts save one file, an answer is lost",
        users=(("open", "save u1"), ("open", "save v1")),
        losses=1,
        losing=("sets aside", "promotes"),
    ),
    Scenario(
        "two mounts save one file, a kill",
        users=(("open", "save u1"), ("open", "save v1")),
        kills=1,
    ),
    Scenario(
        "two mounts save one file, the job overwrites",
        users=(("open", "save u1"), ("open", "save v1")),
        job=("overwrite",),
    ),
]

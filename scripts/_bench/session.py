"""One run of the bench: which systems do which workloads at which round trips, and how often."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import tree
from .floor import Floor
from .jobfs import Huge, Jobfs
from .lab import Lab, NotMeasured
from .measure import Outcome
from .metadata import HUGE_RTT
from .peers import start_peers
from .system import System
from .trial import Plan, Trial
from .workloads import WORKLOADS, WRITING, Workload

#: The systems that every result needs.
_OURS = ("jobfs", "floor")

#: Seconds: a peer that takes longer for one run is not run again.
_LONG = 10.0


@dataclass(frozen=True)
class Selection:
    """What to measure; `rtts` in seconds."""

    names: Sequence[str]
    rtts: Sequence[float]
    runs: int
    peers: Sequence[str]
    plan: Plan
    profile: Path | None = None

    @property
    def workloads(self) -> list[Workload]:
        """Return the workloads, in the order of the table."""
        return [workload for name, workload in WORKLOADS.items() if name in self.names]


def measure(
    selection: Selection, lab: Lab, say: Callable[[str], None], outcomes: list[Outcome]
) -> Iterator[list[Outcome]]:
    """Add all requested outcomes to `outcomes`, and yield the rows of each workload once it is measured.

    An outcome's `failures` say what could not be measured.
    """
    ordinary = [workload for workload in selection.workloads if not workload.huge]
    if ordinary:
        systems = _systems(selection, lab, say)
        for rtt in selection.rtts:
            for workload in ordinary:
                outcomes += (new := _blank(workload, rtt))
                _all_systems(workload, systems, selection, lab, say, new)
                yield new
    for workload in selection.workloads:
        if workload.huge:
            say("seeding 100,000 items")
            outcomes += (new := _blank(workload, HUGE_RTT))
            _all_systems(workload, [Huge(lab)], selection, lab, say, new)
            yield new


def _blank(workload: Workload, rtt: float) -> list[Outcome]:
    return [Outcome(row, rtt) for row in workload.rows]


def _systems(selection: Selection, lab: Lab, say: Callable[[str], None]) -> list[System]:
    say("making the data")
    share = selection.plan.share
    datasets = {
        "tree": tree.small_files(share(tree.FILES), share(tree.DIRECTORIES)), "saved": tree.saved_files(0)
    }  # fmt: skip
    if {"cat", "middle"} & set(selection.names):
        datasets["big"] = tree.big_file()
    if "git" in selection.names:
        datasets["git"] = tree.repository(lab.fresh("git"), lab.environment())
    runs = len(selection.rtts) * selection.runs
    spare = {"saved": runs * WRITING, "git": runs * ("git" in selection.names)}
    systems: list[System] = [Jobfs(lab, datasets, spare, selection.profile)]
    if not selection.profile and any(workload.floor for workload in selection.workloads):
        systems.append(Floor(lab, {"tree": datasets["tree"]}))
    return systems + start_peers(selection.peers, lab, datasets, say)


def _all_systems(
    workload: Workload, systems: Sequence[System], selection: Selection, lab: Lab, say: Callable[[str], None],
    filled: Sequence[Outcome],
) -> None:  # fmt: skip
    rtt, outcomes = filled[0].rtt, {outcome.row.key: outcome for outcome in filled}
    for system in systems:
        if not _takes_part(workload, system):
            continue
        trial = Trial(lab, system, rtt, selection.plan)
        for run in range(selection.runs):
            say(f"{workload.name} at {rtt * 1000:g} ms: {system.name}, run {run + 1}")
            began = time.monotonic()
            try:
                _once(workload, trial, outcomes)
            except (NotMeasured, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
                for outcome in outcomes.values():
                    if system.name in _OURS or not outcome.samples.get(system.name):
                        outcome.failures[system.name] = " ".join(str(error).split())[:300]
                break
            if system.name not in _OURS and time.monotonic() - began > _LONG:
                break


def _takes_part(workload: Workload, system: System) -> bool:
    if system.name == "floor":
        return workload.floor
    return workload.peers or isinstance(system, Jobfs)


def _once(workload: Workload, trial: Trial, outcomes: dict[str, Outcome]) -> None:
    for measured in workload.run(trial):
        name = measured.system or trial.system.name
        outcomes[measured.row].samples.setdefault(name, []).append(measured.sample)

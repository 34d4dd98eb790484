"""The workloads that write: `cp -r` in, saves in place, saves by a temporary file, new files."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from . import tree
from .jobfs import Jobfs, now
from .measure import Measured, Row, Sample, at_most, of_bound, requests, round_trips
from .reading import CONNECTIONS
from .system import Mounted
from .trial import Trial, same, sample

#: Seconds: if a peer's server has the bytes within this time after the last fsync, fsync counts as waiting for the server.
_SOON = 0.1

COPY = (
    Row("cp", "cp -r 200 files in: return", goals=(at_most("seconds", 0.5, "<= 0.5 s"),)),
    Row(
        "cp-all", "cp -r 200 files in: server has all", lambda rtt: tree.COPIED / CONNECTIONS * rtt,
        (of_bound(2),),
    ),
)  # fmt: skip
SAVE = (
    Row("save", "save in place, fsync", lambda rtt: 2 * rtt, (round_trips(2.5), requests(7))),
    Row("gap", "name absent in a save", goals=(at_most("seconds", 0.005, "<= 5 ms"),)),
)
REPLACE = (
    Row("replace", "save by rename over, fsync", lambda rtt: 3 * rtt, (round_trips(5.5), requests(9))),
)
NEW = (Row("new", "new file, fsync, server rejects", lambda rtt: rtt, (round_trips(1.5), requests(1))),)


def copying(trial: Trial) -> Iterator[Measured]:
    """Run `cp -r` of small files into the mount: until it returns, and until the server has every byte."""
    files = tree.copied_files(trial.plan.share(tree.COPIED))
    source = trial.lab.fresh("source") / "copied"
    tree.write(source, files)
    dataset = trial.system.writable("saved")
    with trial.mounted(dataset) as mounted, trial.system.metered(mounted) as cost:
        began, clock = time.perf_counter(), now()
        trial.run(["cp", "-r", source, mounted.path])
        returned = time.perf_counter() - began
        arrived = trial.system.arrival(
            dataset, {f"copied/{path}": data for path, data in files.items()}, clock
        )
        _read_back(mounted, {f"copied/{path}": data for path, data in files.items()})
    yield Measured("cp", Sample(returned))
    yield Measured("cp-all", sample(arrived - clock, cost))


def saving(trial: Trial) -> Iterator[Measured]:
    """Save twenty files: open with O_TRUNC, write, sync, close. Also measure how long the server had no file at the name."""
    yield _saves(trial, "save")
    if isinstance(trial.system, Jobfs) and (gaps := absences(trial.system.server.log())):
        yield Measured("gap", Sample(statistics.median(gaps), facts={"longest": max(gaps)}))


def replacing(trial: Trial) -> Iterator[Measured]:
    """Write twenty files under another name, sync them, and rename them over the old ones."""
    yield _saves(trial, "replace")


def creating(trial: Trial) -> Iterator[Measured]:
    """Create twenty files, after a few others from which the mount learns how this server behaves."""
    yield _saves(trial, "new")


def _saves(trial: Trial, how: str) -> Measured:
    """Return one sample: the median seconds of the saves, and the requests for each."""
    files = dict(list(tree.saved_files(1).items())[: trial.plan.share(tree.SAVED)])
    # A few saves first: the mount asks the server its questions only once.
    first = dict(list(tree.saved_files(2).items())[:6])
    if how == "new":
        files, first = ({f"{prefix}-{path}": data for path, data in some.items()}
                        for prefix, some in (("new", files), ("first", first)))  # fmt: skip
    source, before = trial.lab.fresh("source"), trial.lab.fresh("source")
    tree.write(source, files)
    tree.write(before, first)
    dataset = trial.system.writable("saved")
    with trial.mounted(dataset, ttl=60) as mounted:
        # As an editor, the client has read the files before it saves them, and has saved before.
        trial.run(["cat", *sorted(mounted.path / path for path in tree.saved_files(0))])
        trial.run([sys.executable, "-m", "_bench.client", how, mounted.path, before])
        trial.system.settle()
        with trial.system.metered(mounted) as cost:
            clock = now()
            out = trial.run([sys.executable, "-m", "_bench.client", how, mounted.path, source])
            ended = now()
            arrived = trial.system.arrival(dataset, files, clock)
        _read_back(mounted, files)
    seconds: list[float] = json.loads(out)
    count = len(files)
    if cost.requests is not None:
        cost.requests /= count
    facts = {
        # A system that does not wait for the server promises less, and is not compared.
        "synced": float(arrived - ended < _SOON),
        "slowest": max(seconds),
        "mean": sum(seconds) / count,
        "server_has_all": (arrived - clock) / count,
    }
    return Measured(how, sample(statistics.median(seconds), cost, **facts))


def absences(log: list[dict[str, Any]]) -> list[float]:
    """Return the seconds between each move to a hidden name and the next move to the visible name, by their answers.

    The local server executes a request just before it answers. A hidden name ends with the visible name that it stands for.
    """
    moves = [entry for entry in log if entry["operation"] == "update" and entry["status"] == 200]
    since: dict[str, float] = {}
    found = []
    for entry in sorted(moves, key=_ended):
        directory, _, name = entry["target"].rpartition("/")
        if name.startswith(".jobfs-"):
            since[f"{directory}/{name.split('-', 4)[4]}"] = _ended(entry)
        elif (began := since.pop(f"{directory}/{name}", None)) is not None:
            found.append(_ended(entry) - began)
    return found


def _ended(entry: dict[str, Any]) -> float:
    return float(entry["time"] + (entry["ms"] or 0.0) / 1000)


def _read_back(mounted: Mounted, files: tree.Tree) -> None:
    for path, content in files.items():
        same((mounted.path / path).read_bytes(), content, f"reading back {path}")

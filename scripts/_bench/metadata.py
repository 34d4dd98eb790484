"""The workloads on names and attributes: CPU of single calls, the TTL, absent names, a huge tree, mounting."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from . import tree
from .jobfs import HUGE_DIRECTORY, HUGE_ITEMS, Huge, Jobfs, huge_paths
from .lab import NotMeasured, resident_bytes
from .measure import Goal, Measured, Outcome, Row, Sample, at_most, of_system, requests, round_trips
from .reading import CONNECTIONS, WARM_TTL
from .trial import Trial, same

CLIENTS = 4
_TURNS = {"getattr": 10_000, "open": 4_000}

STAT = (
    Row("getattr", "4 clients: CPU of a getattr", goals=(of_system("floor", 1.6),), rtt=None),
    Row("open", "4 clients: CPU of open+read+close", goals=(of_system("floor", 1.6),), rtt=None),
)
RECHECK = (
    Row("recheck", "one stat after the TTL", lambda rtt: rtt, (round_trips(1.5), requests(1))),
    # The kernel looks up each name of the path in turn.
    Row("recheck-deep", "one stat after the TTL, one level down", lambda rtt: 2 * rtt),
)
ABSENT = (Row("absent", "500 names that do not exist", goals=(requests(0),), rtt=None),)
MOUNT = (
    Row(
        "mount", "mount command until it answers", lambda rtt: 2 * rtt,
        (Goal("<= 3 rt + 0.4 s", lambda o: (o.median("jobfs") or 0) - 3 * o.rtt, 0.4),), rtt=None,
    ),
)  # fmt: skip

#: The round trip of the huge tree, in seconds.
HUGE_RTT = 0.005
_PAGE = 100


def _huge_bound(rtt: float) -> float:
    return HUGE_ITEMS / _PAGE / CONNECTIONS * rtt


def _of_huge_bound(outcome: Outcome) -> float | None:
    """Return the ratio to the bound, or to the CPU time of the busiest process if that is longer."""
    seconds, cpu = outcome.median("jobfs"), outcome.median("jobfs", "busiest_cpu")
    return None if seconds is None or cpu is None else seconds / max(_huge_bound(outcome.rtt), cpu)


HUGE = (
    Row(
        "huge", "100,000 items: first ls", _huge_bound,
        (
            Goal("<= 2 x bound or CPU", _of_huge_bound, 2.0),
            at_most("resident_mib", 400, "<= 400 MiB resident"),
        ),
        rtt=HUGE_RTT,
    ),
    Row("huge-dir", "10,000 entries: ls -l, warm", goals=(at_most("seconds", 3, "<= 3 s"),), rtt=HUGE_RTT),
)  # fmt: skip


def single_calls(trial: Trial) -> Iterator[Measured]:
    """Make one call many times in four processes; `seconds` is the driver's CPU time per call."""
    trial.system.set_rtt(0)  # the network plays no part here, and would slow the preparation
    for how, turns in _TURNS.items():
        turns = trial.plan.share(turns if trial.system.name in ("jobfs", "floor") else turns // 10)
        with trial.mounted("tree", ttl=WARM_TTL) as mounted, contextlib.ExitStack() as stack:
            command = [sys.executable, "-m", "_bench.client", how, mounted.path, str(turns)]
            clients = []
            for _ in range(CLIENTS):  # the first client warms the cache for the others
                clients.append(stack.enter_context(trial.lab.process(command, trial.env)))
                same(trial.lab.read_line(clients[-1]), "ready", "the client")
            with trial.system.metered(mounted) as cost:
                for client in clients:
                    assert client.stdin is not None
                    client.stdin.write("\n")
                    client.stdin.flush()
                seconds = max(float(trial.lab.read_line(client)) for client in clients)
        calls = turns * CLIENTS
        yield Measured(how, Sample(cost.cpu / calls, cost.requests, facts={"rate": calls / seconds}))


def recheck(trial: Trial) -> Iterator[Measured]:
    """Look up one name whose cached attributes have expired."""
    file = next(iter(tree.small_files(trial.plan.share(tree.FILES), trial.plan.share(tree.DIRECTORIES))))
    ttl = 1.0
    for row, path in zip(RECHECK, (file.partition("/")[0], file), strict=True):
        with trial.mounted("tree", ttl=ttl) as mounted:
            trial.run(["ls", "-lR", mounted.path])
            time.sleep(ttl + 0.2)
            yield Measured(
                row.key, trial.timed(mounted, ["stat", "-c", "%n", path], _says(path), mounted.path)
            )


def _says(path: str) -> Callable[[str], None]:
    return lambda out: same(out, f"{path}\n", "stat")


def absent_names(trial: Trial) -> Iterator[Measured]:
    """Look up names that do not exist, as a build does that searches for headers."""
    count = trial.plan.share(500)
    with trial.mounted("tree") as mounted:
        trial.run(["ls", "-lR", mounted.path])
        command = [sys.executable, "-m", "_bench.client", "absent", mounted.path, str(count)]
        yield Measured(
            "absent", trial.timed(mounted, command, lambda out: same(int(out), count, "absent names"))
        )


def mounting(trial: Trial) -> Iterator[Measured]:
    """Run the mount command as a user does, and wait for the first answer of the mount."""
    assert isinstance(trial.system, Jobfs)
    with trial.lab.mount_point() as directory:
        trial.system.server.forget()
        began = time.perf_counter()
        trial.system.mount_in_background("tree", directory)
        subprocess.run(["stat", directory], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        count = len(trial.system.server.log())
        same(len(list(directory.iterdir())) > 0, True, "the directory")
        trial.system.unmount(directory)
    yield Measured("mount", Sample(seconds, count))


def huge_tree(trial: Trial) -> Iterator[Measured]:
    """List the root of a workspace of 100,000 items for the first time, then a directory of 10,000."""
    system = trial.system
    if not isinstance(system, Huge):
        raise NotMeasured("the huge tree needs a server of its own")
    directories, _ = huge_paths()
    # Otherwise the second command would list again, until the mount knows how long that takes (vfs/semantics.md 1).
    with trial.mounted("huge", ttl=60) as mounted:
        first = trial.timed(
            mounted, ["ls", mounted.path], lambda out: same(set(out.split()), set(directories), "ls")
        )
        first.facts["busiest_cpu"] = max(first.facts["served_cpu"], first.cpu or 0)
        warm = trial.timed(
            mounted,
            ["ls", "-l", mounted.path / "large"],
            lambda out: same(len(out.splitlines()), HUGE_DIRECTORY + 1, "ls -l"),
        )
        first.facts["resident_mib"] = resident_bytes(mounted.pids[0]) / 2**20
    yield Measured("huge", first)
    yield Measured("huge-dir", warm)

"""Killed, without power, or with any answer lost: the target is the old or the new whole, and nothing else has changed.

Operations on one file meet each act at each boundary: one request after another, and where set-aside and promote overlap (R13).
"""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from itertools import count, product
from pathlib import Path
from random import Random

import pytest
from tests.support.boundaries import At, Boundaries, Death, Mortal
from tests.support.files import errno_from
from tests.support.hosts import FATES, Host
from tests.support.interferences import FAULTS, Interference, Scene, named
from tests.support.operations import (
    ON_UNSENT,
    OPERATIONS,
    REPLACING,
    Operation,
    Promise,
)
from tests.support.overlaps import Overlaps
from tests.support.waiting import eventually

from jobfs.content import store
from jobfs.content.timing import Timing
from jobfs.emulator import Server
from jobfs.errors import JobfsError

KILLS, CUTS_POWER, FILLS = (
    named("machine", name) for name in ("kills the mount", "cuts the power", "fills the disk")
)
EVERY = [*OPERATIONS, *ON_UNSENT]
in_set_ups = partial(
    pytest.mark.parametrize,
    ("operation", "act", "overlaps"),
    indirect=["overlaps"],
    ids=lambda value: {True: "overlapping", False: ""}.get(value) if isinstance(value, bool) else value.name,
)


@pytest.mark.parametrize("sync_interval", [60.0])  # else a file may be back at its old path
@in_set_ups(
    [
        *product(EVERY, [KILLS], [False]),
        *product(OPERATIONS, [CUTS_POWER], [False]),
        *product(REPLACING, [KILLS], [True]),
    ]
)
def test_an_operation_leaves_old_or_new_content_wherever_its_mount_ends(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: Operation,
    act: Interference,
    overlaps: Overlaps | None,
) -> None:
    """vfs/semantics.md 4.19: the next mount of that job finishes it by looking at what the server has.

    vfs/semantics.md 4.4 and save/protocol.md, Vocabulary, (S): without power only synced state survives, and that is enough.
    save/protocol.md R13: an overlap leaves nothing new in the journal, and recovery is the same.
    """
    for at in count(1):
        scene, promise, fate = Scene("dir/file", server.store), Promise(), FATES[at % len(FATES)]
        boundaries = Boundaries(at, partial(act.act, scene))
        with operation.started(server, tmp_path / f"{at}", boundaries) as work:
            scene.host = host = Host(work, fate if act is CUTS_POWER else None)
            work.work(lambda work=work, promise=promise: operation.run(work, promise))  # type: ignore[misc]
        with monkeypatch.context() as patch:
            host.restart(patch)
            with work.next() as again:
                again.settle()
                where = f"{act} at {at}: {boundaries.last} of {boundaries.passed}; unsynced bytes {fate}"
                operation.check(again, promise, where, power_lost=host.power_lost)
        if not boundaries.struck:
            break
    assert boundaries.surround(operation.sends), boundaries.passed
    assert overlaps is None or overlaps.total()


@pytest.mark.parametrize(
    ("operation", "then"),
    [
        (operation, then)
        for operation, then in product(EVERY, ["makes room", "kills the mount"])
        # Of this one nothing is recorded before it is carried out.
        if not (then == "kills the mount" and operation.name.startswith("unlink of an open file"))
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_an_operation_succeeds_though_the_disk_was_full(
    server: Server, tmp_path: Path, operation: Operation, then: str
) -> None:
    """vfs/semantics.md 4, Nothing is forgotten; 5: ENOSPC to the writer, what was acknowledged stays; the next mount sends it."""
    refusals = 0
    for nth in count(1):
        scene, promise = Scene("dir/file", server.store), Promise()
        boundaries = At("write", nth, partial(FILLS.act, scene))
        with operation.started(server, tmp_path / f"{nth}", boundaries, timeout=3.0) as work:
            scene.host = host = Host(work)
            boundaries.arm()
            failed = errno_from(operation.run, work, promise)
            boundaries.disarm()
            refusals += host.refusals
            where = f"{FILLS} before write {nth}, errno {failed}"
            if then == "kills the mount":
                host.kill()
            else:
                host.free_disk()
                assert failed in (0, errno.ENOSPC), where
                work.vfs.retry(None)
                eventually(lambda work=work: not errno_from(work.settle), "it is at rest")  # type: ignore[misc]
                operation.check(work, promise, where)
        if then == "kills the mount":
            with work.next() as again:
                again.settle()
                operation.check(again, promise, where)
        if not boundaries.struck:
            break
    assert refusals > 0


#: Seconds until a request is carried out whose connection has died, and how long mounts reckon with that.
LATE, LIFETIME = 0.1, 0.3
#: A create that is carried out after this: the name may be there again (save/protocol.md, What the API does not allow).
FLIPS = ("unlink while it is created at once", "unlink while it is staged")


#: Of the acts that are like another one, which leads to the same steps, only the first operation meets each.
IN_TURN = [
    (operation, act, False)
    for operation, act in product(EVERY, FAULTS)
    if operation is OPERATIONS[0] or not act.like
    if act.name != "delays a request" or operation.name not in FLIPS
]
#: What the network does to the pair of requests of every operation; the rest only to those of the first.
LOSES = ("drops a request", "loses an answer", "loses two answers")
OVERLAPPING = [
    (operation, act, True)
    for operation, act in product(REPLACING, FAULTS)
    if act.name in LOSES or (operation is REPLACING[0] and not act.is_slow)
]


@in_set_ups([*IN_TURN, *OVERLAPPING])
def test_an_operation_succeeds_under_any_network_fault(
    server: Server, tmp_path: Path, operation: Operation, act: Interference, overlaps: Overlaps | None
) -> None:
    """vfs/semantics.md 5.9, 5.11: a changing request whose answer was lost is never blindly repeated: a look comes first.

    save/protocol.md R13: a promote without an answer is judged by R6, a set-aside without one waits as R7 says.
    """
    options = {"request_lifetime": LIFETIME} if act.name == "delays a request" else {}
    options |= {"timeout": 1.0} if act.is_slow else {}
    for skip in count():
        promise = Promise()
        with operation.started(server, tmp_path / f"{skip}", Boundaries(), **options) as work:
            struck = server.faults.injected_count
            strike = partial(server.faults.fail_next, on="change", skip=skip, delay=LATE)
            act.act(Scene("dir/file", server.store, fault=strike))
            failed = errno_from(work.work, lambda work=work, promise=promise: operation.run(work, promise))
            server.faults.clear()
            work.settle()
            operation.check(work, promise, f"{act} after {skip} changes, errno {failed}")
        if struck == server.faults.injected_count:
            break
    assert skip >= operation.sends
    # What a program reads is looked at once more, and a save that begins again after a lost answer need not overlap.
    assert overlaps is None or overlaps.total() or operation.name == "rename over an open file"


@pytest.mark.parametrize("operation", EVERY, ids=lambda operation: operation.name)
def test_an_operation_succeeds_once_a_refused_key_is_accepted_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Operation
) -> None:
    """vfs/semantics.md 4, Nothing is forgotten: a refusal may be followed by refusals of all steps that undo the save."""
    # The check does not read twice, as the kernel does.
    monkeypatch.setattr(store, "Timing", partial(Timing, echo=0.0))
    for skip in count():
        promise = Promise()
        with operation.started(server, tmp_path / f"{skip}", Boundaries(), timeout=3.0) as work:
            before = server.faults.injected_count
            refuse = partial(server.faults.fail_next, skip=skip, times=10**6)
            named("server", "refuses the key").act(Scene("dir/file", server.store, fault=refuse))
            work.boundaries.arm()
            failed = errno_from(operation.run, work, promise)
            struck = server.faults.injected_count
            server.faults.clear()
            changes = work.state.changes
            # A refusal of just before may not be recorded yet: the change would be refused after the retry.
            eventually(lambda changes=changes: not any(c.is_running for c in list(changes.values())))  # type: ignore[misc]
            work.vfs.retry(None)
            eventually(lambda work=work: not errno_from(work.settle), "it is at rest")  # type: ignore[misc]
            operation.check(work, promise, f"refused after {skip} requests, errno {failed}")
        if struck == before:
            break


@pytest.mark.parametrize("seed", range(6))
def test_an_operation_killed_again_in_recovery_still_succeeds(
    server: Server, tmp_path: Path, seed: int
) -> None:
    """vfs/semantics.md 4: killed at any point, the recovery too."""
    random = Random(seed)
    operation = random.choice(OPERATIONS)
    boundaries, promise = Boundaries(random.randint(2, 30)), Promise()
    with operation.started(server, tmp_path / "home", boundaries) as work:
        work.work(lambda: operation.run(work, promise))
    deaths = [boundaries.last]
    for _ in range(3):
        again = Mortal(server, work.home, Boundaries(random.randint(1, 12)))
        again.boundaries.arm()
        with suppress(Death, JobfsError):
            again.start()
            again.work(lambda: None)
        deaths.append(again.boundaries.last)
        again.end()
    with work.next() as last:
        last.settle()
        operation.check(last, promise, f"killed at {deaths}")

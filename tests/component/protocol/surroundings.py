"""What happens around a mount: the job, late requests, the death of a process, a loss of power."""

from __future__ import annotations

from collections.abc import Iterator

from jobfs.state.records import Stage, Verb

from .explorer import Step
from .model import ELSEWHERE, SOURCE, TARGET, Disk, Item, Mount, Scenario, Tx, World, execute

Steps = Iterator[tuple[Step, World]]


def job_steps(world: World, scenario: Scenario) -> Steps:
    """The job acts on what it sees at T."""
    for act in dict.fromkeys(world.job):
        left = list(world.job)
        left.remove(act)
        new = f"j{len(world.job)}"
        after = _job(world, act, new, tick=not scenario.one_tick)
        if after is not None:
            yield Step("job", f"{act}s" if " " not in act else act), after._replace(job=tuple(left))


def _job(world: World, act: str, new: str, *, tick: bool) -> World | None:
    there = world.at(SOURCE if act == "delete source" else TARGET)
    if act == "create":
        if there is not None:
            return None
        item = Item(world.next_id, TARGET, new)
        return world._replace(
            items=(*world.items, item), next_id=world.next_id + 1, owed=world.owed | {new}, expected=new
        )
    if there is None:
        return None
    rest = tuple(item for item in world.items if item.id != there.id)
    if act == "overwrite":
        changed = there._replace(content=new, version=there.version + tick)
        # Not promised: what is written between our last look and a delete.
        excused = _about_to_go(world, there.id)
        return world._replace(
            items=tuple(changed if item.id == there.id else item for item in world.items),
            owed=(world.owed - {there.content}) | (set() if excused else {new}),
            expected="?" if excused else new,
        )
    if act in ("delete", "delete source"):
        expected = world.expected if act == "delete source" else ""
        return world._replace(items=rest, owed=world.owed - {there.content}, expected=expected)
    assert act == "rename"
    if world.at(ELSEWHERE) is not None:
        return None
    moved = there._replace(name=ELSEWHERE)
    # Not promised: a file renamed away between find and set-aside, if it is unchanged.
    content = frozenset({there.content})
    excused = _on_its_way(world, there.id)
    return world._replace(
        items=tuple(moved if item.id == there.id else item for item in world.items),
        owed=world.owed - content if excused else world.owed,
        claimed=world.claimed if excused else world.claimed | content,
        expected="",
    )


def _on_its_way(world: World, item_id: int) -> bool:
    found = any(
        tx.finding is not None and tx.finding.fresh and tx.finding.id == item_id
        for mount in world.mounts
        for tx in mount.txs
    )
    return found or any(request.id == item_id and request.op == "move" for request in world.late)


def _about_to_go(world: World, item_id: int) -> bool:
    return any(
        tx.verb is Verb.REMOVE and tx.finding is not None and tx.finding.id == item_id
        for mount in world.mounts
        for tx in mount.txs
    )


def network_steps(world: World, scenario: Scenario) -> Steps:
    """A request whose answer was lost is carried out now, or never."""
    for number, request in enumerate(world.late):
        rest = world._replace(late=world.late[:number] + world.late[number + 1 :])
        after, _ = execute(rest, request, scenario)
        yield Step("net", f"{request.op} is never carried out"), rest
        if after != rest:
            yield Step("net", f"{request.op} is carried out late"), after._replace(flipped=True)


def _recorded(tx: Tx) -> Tx:
    """What the journal holds of a transaction."""
    asides = tuple(aside._replace(verdict="") for aside in tx.asides)
    return Tx(*tx[:10], unlinked=tx.unlinked)._replace(asides=asides)


def written(mount: Mount) -> Disk:
    """The disk after a sync now."""
    return Disk(tuple(_recorded(tx) for tx in mount.txs), mount.tombs)


def _dead(mount: Mount, txs: tuple[Tx, ...]) -> Mount:
    waiting = tuple(
        tx._replace(
            unsure=tx.stage is Stage.STAGED,
            resent=tx.stage is Stage.STAGED,
            looking=tx.stage is Stage.STAGING and (tx.tid > 0 or tx.direct),
        )
        for tx in txs
        # The unlink of an open file is not recorded.
        if tx.verb is not Verb.REMOVE
    )
    return mount._replace(up=False, txs=waiting, todo=(), base=None, renamed=frozenset())


def crash(world: World, number: int) -> World:
    """The process is killed: the journal stays."""
    mount = world.mounts[number]
    return world.with_mount(number, _dead(mount, tuple(_recorded(tx) for tx in mount.txs)))


def power_losses(world: World, number: int) -> Iterator[tuple[str, World]]:
    """Only what was synced stays; or the journal stays, and of the local bytes what was synced."""
    mount = world.mounts[number]
    world = world._replace(powers=world.powers - 1)
    synced = {tx.content for tx in mount.disk.txs if tx.local}
    freed = {tx.content for tx in mount.txs if not tx.local}
    old = tuple(tx._replace(local=tx.local and tx.content not in freed) for tx in mount.disk.txs)
    new = tuple(_recorded(tx)._replace(local=tx.local and tx.content in synced) for tx in mount.txs)
    for what, txs, tombs in (("journal lost", old, mount.disk.tombs), ("bytes lost", new, mount.tombs)):
        kept = {tx.content for tx in txs if tx.local}
        lost = {tx.content for tx in mount.txs if tx.local and tx.stage is not Stage.PLACED} - kept
        after = world.with_mount(number, _dead(mount, txs)._replace(tombs=tombs))
        yield what, after._replace(owed=world.owed - lost)

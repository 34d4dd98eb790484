"""All that can happen to the mounts of a scenario: the job, the network and the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple, cast

from tests.support.interferences import Scene, named
from tests.support.judge import ABSENT, Effect, State

from jobfs.state.records import Stage, Verb

from .model import DIRECTORY, Disk, Item, Mount, Outcome, Run, Search, Step, Tx, World, search
from .mounted import MOUNTS, Mounted, Steps
from .scenarios import ELSEWHERE, SOURCE, TARGET, Scenario


class Protocol(Run):
    """The steps of one scenario under some rules."""

    def explore(self, limit: int = 60_000) -> Search[World]:
        """Everything that can happen, or the shortest way to something that must not."""
        return search(World.first(self.scenario), self.steps, World.wrong, limit)

    def steps(self, world: World) -> Steps:
        """Everything that can happen next."""
        yield from job_steps(world, self.scenario)
        yield from network_steps(world, self.scenario)
        for number, mount in enumerate(world.mounts):
            yield from machine_steps(world, number)
            if mount.up:
                yield from Mounted(self, world, number).steps()
            else:
                yield Step(MOUNTS[number], "comes back"), self._recovered(world, number)

    def _recovered(self, world: World, number: int) -> World:
        """The next mount (save/protocol.md, Recovery): nobody was told that a directory exists."""
        mount = world.mounts[number]
        txs = [
            self.moved(tx, Stage.CANCELLED)
            if tx.verb is Verb.MKDIR and tx.stage in (Stage.STAGING, Stage.STAGED)
            else tx
            for tx in mount.txs
        ]
        return world.with_mount(number, mount._replace(up=True, txs=tuple(txs)))


# The job


class JobInWorld:
    """The job's side of a world: the methods of JobSide that the acts of the list call (tests/support/interferences.py)."""

    lock = nullcontext()

    def __init__(self, world: World, scenario: Scenario) -> None:
        self.world = world
        self._touches = not scenario.one_tick
        self._moves_touch = scenario.moves_touch

    def items(self) -> tuple[Item, ...]:
        return self.world.items

    def items_at(self, path: str) -> list[Item]:
        return [item for item in self.world.items if item.path == path]

    def item_at(self, path: str) -> Item:
        return self.items_at(path)[-1]

    def exists(self, path: str) -> bool:
        return path == DIRECTORY or bool(self.items_at(path))

    def content_of(self, item_id: int) -> str:
        return next(item.content for item in self.world.items if item.id == item_id)

    def read(self, path: str) -> str:
        return self.item_at(path).content

    def seed(self, tree: Mapping[str, str]) -> None:
        for path, content in tree.items():
            self.world = self.world.with_new(path.removeprefix(f"{DIRECTORY}/"), content)

    def write(self, path: str, content: str) -> None:
        for item in self.items_at(path):
            self.world = self.world.with_item(
                item._replace(content=content, version=item.version + self._touches)
            )

    append = write

    def set_permission(self, path: str, permission: str) -> None:
        self.write(path, self.read(path))

    def replace(self, path: str, content: str) -> None:
        self.delete(path)
        self.seed({path: content})

    def delete(self, path: str) -> None:
        gone = [item for item in self.items() if item.path == path or item.path.startswith(f"{path}/")]
        for item in gone:
            self.world = self.world.without_item(item)

    def move(self, old: str, new: str) -> None:
        item = self.item_at(old)
        self.delete(new)
        name = new.removeprefix(f"{DIRECTORY}/")
        self.world = self.world.with_item(item._replace(name=name, version=item.version + self._moves_touch))


def job_steps(world: World, scenario: Scenario) -> Steps:
    """The job acts on what it sees at T, or at S where the scenario says so."""
    for act in dict.fromkeys(world.job):
        left = list(world.job)
        left.remove(act)
        seen = World(world.items, (), world.next_id)
        acted, effects = _played(act, f"j{len(world.job)}", seen, scenario)
        if acted != seen:
            after = world._replace(items=acted.items, next_id=acted.next_id, job=tuple(left))
            name = SOURCE if act.endswith(" S") else TARGET
            yield Step("job", act), _accounted(world, after, name, effects)


@lru_cache(100_000)
def _played(act: str, new: str, world: World, scenario: Scenario) -> tuple[World, list[Effect]]:
    """The world once the job has acted, and what that changed."""
    job, make = JobInWorld(world, scenario), cast(Callable[[bytes], bytes], lambda before: new)
    scene = Scene(f"{DIRECTORY}/{SOURCE if act.endswith(' S') else TARGET}", job, make, ELSEWHERE)
    effects = named("job", act.removesuffix(" S")).play(scene)
    return job.world, effects


class _Acted(NamedTuple):
    """What an act of the job has changed: the item that it found, and whether it wrote to that; by how it went, contents."""

    item: int
    in_place: bool
    made: frozenset[str]
    moved: frozenset[str]
    gone: frozenset[str]


def _acted(before: World, name: str, effects: list[Effect]) -> _Acted:
    there, path = before.at(name), f"{DIRECTORY}/{name}"
    moved = _contents(effect.after for effect in effects if effect.path == ELSEWHERE)
    return _Acted(
        there.id if there else 0,
        any(effect.same for effect in effects),
        _contents(effect.after for effect in effects if effect.path == path),
        moved,
        # The bytes of a staged item are on the mount's machine still.
        _contents(effect.before for effect in effects if not _is_staged(effect.path)) - moved,
    )


def _accounted(before: World, after: World, name: str, effects: list[Effect]) -> World:
    """What is owed once the job has acted: not what it has replaced or deleted, but what it has written or moved away."""
    acted = _acted(before, name, effects)
    made = frozenset() if acted.in_place and _may_be_deleted(before, acted.item) else acted.made
    claimed = frozenset() if _may_be_set_aside(before, acted.item) else acted.moved
    return after._replace(
        owed=(before.owed - acted.gone - (acted.moved - claimed)) | made,
        claimed=before.claimed | claimed,
        expected=before.expected if name == SOURCE else _expected(before, acted),
    )


def _expected(before: World, acted: _Acted) -> str:
    """What T shows once the job has acted."""
    if acted.made:
        may_be_elsewhere = _may_be_deleted(before, acted.item) or _is_unlinked_in_overlap(before, acted.item)
        return "?" if acted.in_place and may_be_elsewhere else min(acted.made)
    if acted.moved:
        return "?" if _may_be_set_aside(before, acted.item) else ""
    if acted.gone:
        return "?" if _may_give_back(before) else ""
    return before.expected


def _contents(states: Iterable[State]) -> frozenset[str]:
    return frozenset(str(state) for state in states if state is not ABSENT)


def _is_staged(path: str) -> bool:
    return "h" in path.removeprefix(f"{DIRECTORY}/")  # no other name has that letter


def _may_be_set_aside(world: World, item: int) -> bool:
    """Not promised: a file renamed away between find and set-aside, if it is unchanged."""
    late = any(request.id == item and request.operation == "update" for request in world.late)
    return late or any(tx.is_about_to_move(item) for tx in world.txs)


def _may_be_deleted(world: World, item: int) -> bool:
    """Not promised: what is written between our last look and a delete."""
    looks = [tx.finding for tx in world.txs if tx.verb is Verb.REMOVE]
    return any(finding is not None and finding.fresh and finding.id == item for finding in looks)


def _is_unlinked_in_overlap(world: World, item: int) -> bool:
    """Not promised: which of two versions T shows where the user unlinks T while set-aside and promote are both in flight (R13).

    The mount can't know what came first, and what the job has written until the set-aside arrived is kept beside T.
    """
    both = [tx for tx in world.txs if tx.unlinked and tx.setting is Outcome.SENT and tx.promoting]
    return any(tx.aside_found.id == item for tx in both)


def _may_give_back(world: World) -> bool:
    """Not promised: T stays free where the job deletes what it has made there since a save set an item aside.

    If the file is unlinked before it is placed, that item gets the name back.
    """
    return any(tx.asides and tx.stage in (Stage.STAGED, Stage.CANCELLED) for tx in world.txs)


# The network and the machine


def network_steps(world: World, scenario: Scenario) -> Steps:
    """A request whose answer was lost is carried out now, or never."""
    for number, request in enumerate(world.late):
        rest = world._replace(late=world.late[:number] + world.late[number + 1 :])
        after, _ = rest.carry_out(request, scenario)
        yield Step("net", f"{request.operation} is never carried out"), rest
        if after != rest:
            yield Step("net", f"{request.operation} is carried out late"), after._replace(flipped=True)


Outcomes = Iterator[tuple[str, World]]


def _kills(world: World, number: int) -> Outcomes:
    if "kill" in world.mishaps and world.mounts[number].up and world.mounts[number].txs:
        yield "", world.once_more("kill").crashed(number)


def _loses_state(world: World, number: int) -> Outcomes:
    mount = world.mounts[number]
    if "wipe" in world.mishaps and not mount.up:
        empty = world.with_mount(number, mount._replace(txs=(), tombs=frozenset(), disk=Disk()))
        yield "", empty.once_more("wipe")._replace(owed=world.owed - mount.unsent)


def _cuts_power(world: World, number: int) -> Outcomes:
    """Only what was synced stays; or the journal stays, and of the local bytes what was synced."""
    if "power" not in world.mishaps:
        return
    mount = world.mounts[number]
    world = world.once_more("power").without_answers(number)
    for what, txs, tombs in _survivors(mount):
        lost = mount.unsent - {tx.content for tx in txs if tx.local}
        after = world.with_mount(number, mount.dead(txs)._replace(tombs=tombs))
        # Not promised: an unlink is on the disk some time after it has returned.
        expected = "?" if any(tx.unlinked for tx in mount.txs) else world.expected
        yield what, after._replace(owed=world.owed - lost, expected=expected)


def _survivors(mount: Mount) -> tuple[tuple[str, tuple[Tx, ...], frozenset[int]], ...]:
    """What a loss of power can leave of a mount: its transactions, and the ids that were used."""
    synced = {tx.content for tx in mount.disk.txs if tx.local}
    freed = {tx.content for tx in mount.txs if not tx.local}
    old = tuple(tx._replace(local=tx.local and tx.content not in freed) for tx in mount.disk.txs)
    new = tuple(tx._replace(local=tx.local and tx.content in synced) for tx in mount.synced.txs)
    return ("journal lost", old, mount.disk.tombs), ("bytes lost", new, mount.tombs)


#: The machine's acts of the list.
MACHINE: dict[str, Callable[[World, int], Outcomes]] = {
    "kills the mount": _kills, "cuts the power": _cuts_power, "loses the state directory": _loses_state,
}  # fmt: skip


def machine_steps(world: World, number: int) -> Steps:
    """What the machine of a mount does."""
    who, mount = MOUNTS[number], world.mounts[number]
    for act, play in MACHINE.items():
        for outcome, after in play(world, number):
            yield Step("fate", f"{act}, {who}", outcome), after
    if "power" in world.mishaps and mount.up and mount.disk != mount.synced:
        synced = world.with_mount(number, mount._replace(disk=mount.synced))
        yield Step("fate", f"syncs the disk of {who}"), synced

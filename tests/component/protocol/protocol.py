"""A mount and its user, and all that can happen to them, as save/protocol.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jobfs.state.records import Stage, Verb

from .model import (
    ELSEWHERE,
    SOURCE,
    TARGET,
    Base,
    Disk,
    Fate,
    Finding,
    Item,
    Mount,
    Request,
    Scenario,
    Search,
    Step,
    Tx,
    World,
    aside_in_flight,
    crash,
    execute,
    hidden,
    moved_to,
    recorded,
    search,
    without_answers,
    without_process,
    written,
    wrong,
)
from .mounted import MOUNTS, Actor, Run, Steps


def job_steps(world: World, scenario: Scenario) -> Steps:
    """The job acts on what it sees at T, or at S where the scenario says so."""
    for act in dict.fromkeys(world.job):
        left = list(world.job)
        left.remove(act)
        after: World | None = world
        for part in JOB[act.removesuffix(" S")]:
            after = after and part(after, SOURCE if act.endswith(" S") else TARGET, scenario)
        if after is not None:
            yield Step("job", act), after._replace(job=tuple(left))


#: What the job does at a name; None if it finds nothing to do.
JobAct = Callable[[World, str, Scenario], World | None]


def _new(world: World) -> str:
    return f"j{len(world.job)}"


def _creates(world: World, name: str, scenario: Scenario) -> World | None:
    if world.at(name) is not None:
        return None
    new = _new(world)
    return world._replace(
        items=(*world.items, Item(world.next_id, name, new)), next_id=world.next_id + 1, owed=world.owed | {new},
        expected=new,
    )  # fmt: skip


def _deletes(world: World, name: str, scenario: Scenario) -> World | None:
    there = world.at(name)
    if there is None:
        return None
    expected = "?" if _may_give_back(world) else ""
    return world._replace(
        items=tuple(other for other in world.items if other.id != there.id),
        owed=world.owed - {there.content},
        expected=world.expected if name == SOURCE else expected,
    )


def _deletes_all(world: World, name: str, scenario: Scenario) -> World | None:
    """The directory, with what is hidden in it; the bytes of a staged item are on the mount's machine still."""
    gone = [item for item in world.items if item.name != ELSEWHERE]
    seen = {item.content for item in gone if not (hidden(item.name) and item.name[1] == "h")}
    return world._replace(
        items=tuple(item for item in world.items if item not in gone),
        owed=world.owed - seen,
        expected="?" if _may_give_back(world) else "",
    )


def _with(world: World, item: Item) -> tuple[Item, ...]:
    return tuple(item if other.id == item.id else other for other in world.items)


def _writes(world: World, name: str, scenario: Scenario) -> World | None:
    there, new = world.at(name), _new(world)
    if there is None:
        return None
    # Not promised: what is written between our last look and a delete.
    excused = _about_to_go(world, there.id)
    return world._replace(
        items=_with(world, there._replace(content=new, version=there.version + (not scenario.one_tick))),
        owed=(world.owed - {there.content}) | (set() if excused else {new}),
        expected="?" if excused or _unlinked_in_overlap(world, there.id) else new,
    )


def _touches(world: World, name: str, scenario: Scenario) -> World | None:
    there = world.at(name)
    if there is None:
        return None
    return world._replace(items=_with(world, there._replace(version=there.version + (not scenario.one_tick))))


def _moves_twice(world: World, name: str, scenario: Scenario) -> World | None:
    return _touches(world, name, scenario) if scenario.moves_touch else world


def _moves_away(world: World, name: str, scenario: Scenario) -> World | None:
    there = world.at(name)
    if there is None or world.at(ELSEWHERE) is not None:
        return None
    # Not promised: a file renamed away between find and set-aside, if it is unchanged.
    content = frozenset({there.content})
    excused = _on_its_way(world, there.id)
    return world._replace(
        items=_with(world, there._replace(name=ELSEWHERE)),
        owed=world.owed - content if excused else world.owed,
        claimed=world.claimed if excused else world.claimed | content,
        expected="?" if excused else "",
    )


#: The job's acts of the list (tests/support/interferences.py), in the steps of this model.
JOB: dict[str, tuple[JobAct, ...]] = {
    "writes": (_writes,), "appends": (_writes,), "touches": (_touches,), "protects": (_touches,),
    "replaces": (_deletes, _creates), "renames over": (_deletes, _creates), "deletes": (_deletes,),
    "creates again": (_creates,), "moves away": (_moves_away,), "moves away and makes another": (_moves_away, _creates),
    "moves away and back": (_moves_twice,), "deletes the directory": (_deletes_all,),
    "deletes the directory and makes another": (_deletes_all, _creates),
}  # fmt: skip


def _on_its_way(world: World, item_id: int) -> bool:
    late = any(request.id == item_id and request.op == "move" for request in world.late)
    return late or any(_is_about_to_move(tx, item_id) for tx in world.txs)


def _is_about_to_move(tx: Tx, item_id: int) -> bool:
    found = tx.finding is not None and tx.finding.fresh and tx.finding.id == item_id
    # H was looked at (R6), and is promoted once more; an earlier promote was carried out late in between.
    return found or (tx.staged == item_id and tx.resent and not tx.unsure)


def _unlinked_in_overlap(world: World, item_id: int) -> bool:
    """Not promised: which of two versions T shows where the user unlinks T while set-aside and promote are both in flight (R13).

    The mount can't know what came first, and what the job has written until the set-aside arrived is kept beside T.
    """
    both = [tx for tx in world.txs if tx.unlinked and tx.setting == "sent" and tx.promoting]
    return any(aside_in_flight(tx).id == item_id for tx in both)


def _may_give_back(world: World) -> bool:
    """Not promised: T stays free where the job deletes what it has made there since a save set an item aside.

    If the file is unlinked before it is placed, that item gets the name back.
    """
    return any(tx.asides and tx.stage in (Stage.STAGED, Stage.CANCELLED) for tx in world.txs)


def _about_to_go(world: World, item_id: int) -> bool:
    removals = [tx for tx in world.txs if tx.verb is Verb.REMOVE]
    return any(tx.finding is not None and tx.finding.id == item_id and tx.finding.fresh for tx in removals)


def network_steps(world: World, scenario: Scenario) -> Steps:
    """A request whose answer was lost is carried out now, or never."""
    for number, request in enumerate(world.late):
        rest = world._replace(late=world.late[:number] + world.late[number + 1 :])
        after, _ = execute(rest, request, scenario)
        yield Step("net", f"{request.op} is never carried out"), rest
        if after != rest:
            yield Step("net", f"{request.op} is carried out late"), after._replace(flipped=True)


Outcomes = Iterator[tuple[str, World]]


def _kills(world: World, number: int) -> Outcomes:
    if world.kills and world.mounts[number].up and world.mounts[number].txs:
        yield "", crash(world._replace(kills=world.kills - 1), number)


def _loses_state(world: World, number: int) -> Outcomes:
    mount = world.mounts[number]
    if world.wipes and not mount.up:
        lost = {tx.content for tx in mount.txs if tx.local and tx.stage is not Stage.PLACED}
        empty = world.with_mount(number, mount._replace(txs=(), tombs=frozenset(), disk=Disk()))
        yield "", empty._replace(wipes=world.wipes - 1, owed=world.owed - lost)


def _cuts_power(world: World, number: int) -> Outcomes:
    """Only what was synced stays; or the journal stays, and of the local bytes what was synced."""
    if not world.powers:
        return
    mount = world.mounts[number]
    world = without_answers(world._replace(powers=world.powers - 1), number)
    for what, txs, tombs in _survivors(mount):
        kept = {tx.content for tx in txs if tx.local}
        lost = {tx.content for tx in mount.txs if tx.local and tx.stage is not Stage.PLACED} - kept
        after = world.with_mount(number, without_process(mount, txs)._replace(tombs=tombs))
        # Not promised: an unlink is on the disk some time after it has returned.
        expected = "?" if any(tx.unlinked for tx in mount.txs) else world.expected
        yield what, after._replace(owed=world.owed - lost, expected=expected)


def _survivors(mount: Mount) -> tuple[tuple[str, tuple[Tx, ...], frozenset[int]], ...]:
    """What a loss of power can leave of a mount: its transactions, and the ids that were used."""
    synced = {tx.content for tx in mount.disk.txs if tx.local}
    freed = {tx.content for tx in mount.txs if not tx.local}
    old = tuple(tx._replace(local=tx.local and tx.content not in freed) for tx in mount.disk.txs)
    new = tuple(recorded(tx)._replace(local=tx.local and tx.content in synced) for tx in mount.txs)
    return ("journal lost", old, mount.disk.tombs), ("bytes lost", new, mount.tombs)


#: The machine's acts of the list.
MACHINE: dict[str, Callable[[World, int], Outcomes]] = {
    "kills the mount": _kills, "cuts the power": _cuts_power, "loses the state directory": _loses_state,
}  # fmt: skip


class Protocol(Run):
    """The steps of one scenario under some rules."""

    def explore(self, limit: int = 60_000) -> Search[World]:
        """Everything that can happen, or the shortest way to something that must not."""
        return search(self.scenario.start(), self.steps, wrong, limit)

    def steps(self, world: World) -> Steps:
        """Everything that can happen next."""
        yield from job_steps(world, self.scenario)
        yield from network_steps(world, self.scenario)
        for number, mount in enumerate(world.mounts):
            yield from self._fate(world, number, mount)
            if not mount.up:
                yield Step(MOUNTS[number], "comes back"), self._recovered(world, number)
                continue
            yield from _Mounted(self, world, number).steps()

    def _fate(self, world: World, number: int, mount: Mount) -> Steps:
        who = MOUNTS[number]
        for act, play in MACHINE.items():
            for outcome, after in play(world, number):
                yield Step("fate", f"{act}, {who}", outcome), after
        if world.powers and mount.up and mount.disk != written(mount):
            synced = world.with_mount(number, mount._replace(disk=written(mount)))
            yield Step("fate", f"syncs the disk of {who}"), synced

    def _recovered(self, world: World, number: int) -> World:
        """The next mount (save/protocol.md, Recovery)."""
        mount = world.mounts[number]
        txs = []
        for tx in mount.txs:
            if tx.verb is Verb.MKDIR and tx.stage is not Stage.CANCELLED and tx.stage is not Stage.PLACED:
                tx = moved_to(tx, Stage.CANCELLED, self.taken)
            txs.append(tx)
        return world.with_mount(number, mount._replace(up=True, txs=tuple(txs)))


class _Mounted(Actor):
    """A mount that is up."""

    def steps(self) -> Steps:
        yield from self._user()
        yield from self._strays()
        for index, tx in enumerate(self._mount.txs):
            self._index = index
            if tx.refused or self._waits(index):
                continue
            if tx.unrecorded:
                yield self._local("records the unlink", self._cancelled(tx))
            elif tx.setting or tx.promoting:
                yield from self._flights(tx)
            else:
                yield from self._next(tx)

    def _next(self, tx: Tx) -> Steps:
        """The next step of a transaction that waits for no answer."""
        self._run.verbs.add(tx.verb)
        self._run.fates |= {aside.fate for aside in tx.asides}
        if tx.undoing is not None:
            yield from self._undo(tx)
        elif tx.verb is Verb.REMOVE:
            yield from self._remove(tx)
        elif tx.stage is Stage.STAGING:
            yield from self._staging(tx)
        elif tx.stage is Stage.STAGED:
            yield from self._given_up(tx)
            yield from self._staged(tx)
        elif tx.stage is Stage.CANCELLED:
            yield from self._cancelled_steps(tx)
        else:
            yield from self._promoted_steps(tx)

    def _waits(self, index: int) -> bool:
        """R10: a cancelled save ends before the next one of the same target."""
        return any(tx.stage is Stage.CANCELLED for tx in self._mount.txs[:index])

    # -- the user

    def _user(self) -> Steps:
        if not self._mount.todo:
            return
        what, _, content = self._mount.todo[0].partition(" ")
        mount = self._mount._replace(todo=self._mount.todo[1:])
        world = self._world
        busy = [tx for tx in mount.txs if tx.stage in (Stage.STAGING, Stage.STAGED) and not tx.refused]
        there = world.at(TARGET)
        if what in ("open", "truncate") and not busy:
            base = Base(there.id, there.version, there.content, what == "open") if there else None
            yield Step(self._who, f"{what}s T"), world.with_mount(self._number, mount._replace(base=base))
        elif what == "save" and not busy:
            tx = Tx(Verb.PUT, Stage.STAGING, content, mount.base)
            world = world._replace(owed=world.owed | {content})
            yield Step(self._who, f"saves {content}"), self._added(world, mount, tx)
        elif what == "mkdir" and not busy:
            tx = Tx(Verb.MKDIR, Stage.STAGING, content, local=False)
            world = self._added(world, mount, tx)._replace(expected="?")
            yield Step(self._who, "makes a directory"), world
        elif what == "rename" and not busy:
            source = world.at(SOURCE)
            if source is None:
                yield Step(self._who, "finds nothing to rename"), world.with_mount(self._number, mount)
                return
            tx = Tx(Verb.MOVE, Stage.STAGED, source.content, mount.base, staged=source.id, local=False)
            yield Step(self._who, "renames S over T"), self._added(world, mount, tx)
        elif what == "move" and not busy and there is not None:
            world, _ = execute(world, Request("move", there.id, ELSEWHERE), self._scenario)
            renamed = mount.renamed | ({there.id} if self._unanswered(there.id) else set())
            world = world.with_mount(self._number, mount._replace(base=None, renamed=renamed))
            # Whoever saves over T has not seen what has another name.
            world = world._replace(expected="", claimed=world.claimed | {there.content})
            yield Step(self._who, "moves T away"), world
        elif what == "unlink":
            yield from self._unlink(mount, busy)
        elif what == "remove" and not busy and there is not None:
            # Hidden at once, and carried out in a second; nothing is recorded.
            base = Base(there.id, there.version, there.content)
            tx = Tx(Verb.REMOVE, Stage.STAGED, "", base, local=False)
            world = world._replace(owed=world.owed - {there.content}, expected="?")
            yield Step(self._who, "hides T, which is open"), self._added(world, mount, tx)

    def _added(self, world: World, mount: Mount, tx: Tx) -> World:
        return world.with_mount(self._number, mount._replace(txs=(*mount.txs, tx)))

    def _unlink(self, mount: Mount, busy: list[Tx]) -> Steps:
        """R10: recorded before it returns."""
        if not busy:
            return
        tx = busy[0]
        self._index = mount.txs.index(tx)
        seen = {tx.content, tx.base.content if tx.base else ""}
        world = self._world.with_mount(self._number, mount)
        world = world._replace(
            owed=world.owed - (seen - world.claimed), expected="" if world.expected in seen | {""} else "?"
        )
        now = self._cancelled(tx) if self._keeps("r10") else tx._replace(unlinked=True, unrecorded=True)
        yield Step(self._who, "unlinks T"), self._with(world, now)

    def _remove(self, tx: Tx) -> Steps:
        """An open file that was unlinked: what the job has written to it since stays."""
        assert tx.base is not None
        item = self._world.item(tx.base.id)
        if tx.finding is None and self._keeps("r7_look"):
            same = item is not None and item.name == TARGET and item.version == tx.base.version
            if same:
                yield self._local("looks at T once more", tx._replace(finding=Finding(tx.base.id)))
            else:
                self._become(tx, Stage.DONE)
                yield self._local("leaves T alone", None)
            return
        if tx.finding is not None:
            yield from self._queue(tx, tx.finding)
            if not tx.finding.fresh and self._keeps("r7_sent"):
                yield self._local(
                    "knows that its look is old, with its connection", tx._replace(finding=None)
                )
                return
        yield from self._send(
            "deletes T",
            Request("delete", tx.base.id),
            self._world,
            lambda world, answer: self._with(world, None),
            None,
        )

    def _given_up(self, tx: Tx) -> Steps:
        """The server refuses a rename and all that would undo it: whoever called is told, and cleanup gives back (R11)."""
        if tx.verb is not Verb.MOVE or not self._world.refusals or tx.unsure or tx.resent or tx.asking:
            return  # nobody waits for one that was taken up from the journal
        asides = tuple(aside._replace(fate=Fate.RETURN) for aside in tx.asides)
        after = self._become(tx, Stage.CANCELLED)._replace(asides=asides, finding=None)
        step, world = self._local("gives the rename up", after)
        yield Step("fate", step.act), world._replace(refusals=world.refusals - 1)

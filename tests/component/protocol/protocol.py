"""A mount and its user, and all that can happen to them, as save-protocol.md says."""

from __future__ import annotations

from jobfs.writeback.records import Fate, SaveKind, State

from .actor import MOUNTS, Run, Steps
from .explorer import Search, Step, search
from .finishing import Finishing
from .model import (
    SOURCE,
    TARGET,
    Aside,
    Base,
    Disk,
    Item,
    Mount,
    Request,
    Tx,
    World,
    hidden_name,
    moved_to,
    wrong,
)
from .saving import Saving
from .surroundings import crash, job_steps, network_steps, power_losses, written


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
        if mount.up and world.kills and mount.txs:
            yield Step("fate", f"kills {who}"), crash(world._replace(kills=world.kills - 1), number)
        if world.powers:
            for what, after in power_losses(world, number):
                yield Step("fate", f"cuts the power of {who}", what), after
            if mount.up and mount.disk != written(mount):
                yield (
                    Step("fate", f"syncs the disk of {who}"),
                    world.with_mount(number, mount._replace(disk=written(mount))),
                )
        if world.wipes and not mount.up:
            lost = {tx.content for tx in mount.txs if tx.local and tx.state is not State.PROMOTED}
            empty = mount._replace(txs=(), tombs=frozenset(), disk=Disk())
            yield (
                Step("fate", f"loses the state directory of {who}"),
                world.with_mount(number, empty)._replace(wipes=world.wipes - 1, owed=world.owed - lost),
            )

    def _recovered(self, world: World, number: int) -> World:
        """The next mount (save-protocol.md, Recovery)."""
        mount = world.mounts[number]
        txs = []
        for tx in mount.txs:
            if (
                tx.kind is SaveKind.MKDIR
                and tx.state is not State.CANCELLED
                and tx.state is not State.PROMOTED
            ):
                tx = moved_to(tx, State.CANCELLED, self.taken)
            if tx.state is State.STAGING and not tx.local and not tx.refused and tx.kind is SaveKind.SAVE:
                moved_to(tx, State.DONE, self.taken)
                continue
            txs.append(tx)
        return world.with_mount(number, mount._replace(up=True, txs=tuple(txs)))


class _Mounted(Saving, Finishing):
    """A mount that is up."""

    def steps(self) -> Steps:
        yield from self._user()
        yield from self._strays()
        for index, tx in enumerate(self._mount.txs):
            self._index = index
            if tx.refused:
                continue
            if tx.unrecorded:
                yield self._local("records the unlink", self._cancelled(tx))
                continue
            self._run.kinds.add(tx.kind)
            self._run.fates |= {aside.fate for aside in tx.asides}
            if tx.state is State.STAGING:
                yield from self._staging(tx)
            elif tx.undoing is not None:
                yield from self._undo(tx)
            elif tx.state is State.STAGED:
                yield from self._staged(tx)
            elif tx.state is State.CANCELLED:
                yield from self._cancelled_steps(tx)
            else:
                yield from self._promoted_steps(tx)

    # -- the user

    def _user(self) -> Steps:
        if not self._mount.todo:
            return
        what, _, content = self._mount.todo[0].partition(" ")
        mount = self._mount._replace(todo=self._mount.todo[1:])
        world = self._world
        busy = [tx for tx in mount.txs if tx.state in (State.STAGING, State.STAGED) and not tx.refused]
        there = world.at(TARGET)
        if what in ("open", "truncate") and not busy:
            base = Base(there.id, there.version, there.content, what == "open") if there else None
            yield Step(self._who, f"{what}s T"), world.with_mount(self._number, mount._replace(base=base))
        elif what == "save" and not busy:
            tx = Tx(SaveKind.SAVE, State.STAGING, content, mount.base)
            world = world._replace(owed=world.owed | {content})
            yield Step(self._who, f"saves {content}"), self._added(world, mount, tx)
        elif what == "mkdir" and not busy:
            tx = Tx(SaveKind.MKDIR, State.STAGING, content, local=False)
            world = self._added(world, mount, tx)._replace(expected="?")
            yield Step(self._who, "makes a directory"), world
        elif what == "rename" and not busy:
            source = world.at(SOURCE)
            if source is None:
                yield Step(self._who, "finds nothing to rename"), world.with_mount(self._number, mount)
                return
            tx = Tx(SaveKind.RENAME, State.STAGED, source.content, mount.base, staged=source.id, local=False)
            yield Step(self._who, "renames S over T"), self._added(world, mount, tx)
        elif what == "unlink":
            yield from self._unlink(mount, busy)
        elif what in ("remove", "hide") and not busy and there is not None:
            yield from self._remove_open(mount, there, Fate.DELETE if what == "remove" else Fate.RETURN)
        elif what == "confirm" and mount.txs:
            yield self._confirmed(mount, mount.txs[0])

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
        now = self._cancelled(tx) if self._rules.r10 else tx._replace(unlinked=True, unrecorded=True)
        yield Step(self._who, "unlinks T"), self._with(world, now)

    def _remove_open(self, mount: Mount, there: Item, fate: Fate) -> Steps:
        """Unlink of an open file: set aside, deleted later; only hidden: it goes back unless the unlink is confirmed."""
        name = hidden_name(self._number, "a", mount.next_tid)
        tx = Tx(SaveKind.REMOVE, State.CANCELLED, "", local=False, asides=(Aside(there.id, name, fate),))
        mount = mount._replace(next_tid=mount.next_tid + 1)
        world, unlinked = self._world, fate is Fate.DELETE
        if unlinked:
            world = world._replace(owed=world.owed - {there.content}, expected="?")
        before = self._synced(self._added(world, mount, tx))

        def answered(world: World, answer: Item | str) -> World:
            if not isinstance(answer, Item):
                self._index = len(mount.txs)
                return self._with(world, None)
            return world._replace(expected="") if unlinked else world

        act = "sets T aside to remove it" if unlinked else "hides T"
        yield from self._send(act, Request("move", there.id, name), before, answered, None)

    def _confirmed(self, mount: Mount, tx: Tx) -> tuple[Step, World]:
        (aside,) = tx.asides
        self._index = 0
        world = self._with(self._world.with_mount(self._number, mount), tx)
        item = world.item(aside.id)
        if item is not None:
            shown = "" if world.expected == item.content else world.expected
            world = world._replace(owed=world.owed - {item.content}, expected=shown)
        tx = tx._replace(asides=(aside._replace(fate=Fate.DELETE),))
        return Step(self._who, "confirms the unlink"), self._with(world, tx)

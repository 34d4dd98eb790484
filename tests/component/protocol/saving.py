"""The first half of a save: stage, set aside, promote (save/protocol.md, The steps)."""

from __future__ import annotations

from jobfs.state.records import Stage, Verb

from .actor import Actor, Steps
from .explorer import Step
from .model import (
    NOT_FOUND,
    SOURCE,
    TARGET,
    Aside,
    Base,
    Finding,
    Item,
    Request,
    Tx,
    World,
    hidden,
    hidden_name,
)


class Saving(Actor):
    """What a mount does with a transaction that is staging or staged."""

    # -- staging

    def _staging(self, tx: Tx) -> Steps:
        if not tx.local and tx.verb is Verb.PUT and (tx.direct or not tx.looking):
            yield self._local("has no bytes to send", self._begin_undo(tx))
            return
        if tx.looking and tx.direct:
            yield self._look_for_direct(tx)
            return
        if tx.looking:
            found = self._world.at(hidden_name(self._number, "h", tx.tid))
            if found is None:
                yield self._local("finds nothing staged", tx._replace(tid=0, looking=False))
            else:
                yield self._local("finds the staged item", self._has_staged(tx, found))
            return
        if tx.finding is None:
            yield self._find(tx)
        elif tx.finding.fresh and self._world.slow:
            yield (
                Step("fate", f"makes the upload of {self._who} long"),
                self._with(self._world, tx._replace(finding=tx.finding._replace(fresh=False)))._replace(
                    slow=self._world.slow - 1
                ),
            )
        straight = self._scenario.known_to_reject and tx.base is None and not (tx.tid or tx.taken)
        if straight and tx.verb is Verb.PUT:
            yield from self._create_direct(tx)
        else:
            yield from self._create(tx)

    def _create_direct(self, tx: Tx) -> Steps:
        """R9: straight to T, on a server that is known to reject a create at an existing path."""
        sent = tx._replace(direct=True)

        def answered(world: World, answer: Item | str) -> World:
            if isinstance(answer, Item):
                placed = self._become(sent._replace(staged=answer.id), Stage.STAGED)
                return self._promoted(world, placed)
            if sent.resent:
                return self._with(world, sent._replace(looking=True))
            return self._with(world, sent._replace(direct=False, taken=True, finding=None))

        def lost(world: World) -> World:
            return self._with(world, sent._replace(looking=True, resent=True))

        request = Request("create", 0, TARGET, tx.content)
        before = self._with(self._world, sent)
        yield from self._send("creates T straight", request, before, answered, lost)

    def _look_for_direct(self, tx: Tx) -> tuple[Step, World]:
        there = self._world.at(TARGET)
        if there is None:
            return self._local("finds nothing at T", tx._replace(looking=False, resent=True))
        if there.content != tx.content:
            other = tx._replace(direct=False, looking=False, resent=False, taken=True, finding=None)
            return self._local("finds another at T", other)
        placed = self._become(tx._replace(staged=there.id), Stage.STAGED)
        return Step(self._who, "finds its own bytes at T"), self._promoted(self._world, placed)

    def _find(self, tx: Tx) -> tuple[Step, World]:
        there = self._world.at(TARGET)
        finding = Finding(there.id, there.version) if there else Finding(0)
        if tx.base and not tx.base.read and tx.base[:2] == finding[:2]:
            # R1: where its bytes are not known they are downloaded while H is staged.
            tx = tx._replace(base=tx.base._replace(read=True))
        return self._local("finds T", tx._replace(finding=finding))

    def _create(self, tx: Tx) -> Steps:
        mount, number = self._mount, self._number
        tid = mount.next_tid
        tx = tx._replace(tid=tid)
        mount = mount._replace(next_tid=tid + 1, tombs=mount.tombs | {tid})
        before = self._with(self._world.with_mount(number, mount), tx)
        name = hidden_name(number, "h", tid)
        act = "creates H"
        free = tx.base is None and tx.finding is not None and not tx.finding.id
        if not self._rules.r9 and free and tx.verb is Verb.PUT:
            name, act = TARGET, "creates T directly"

        def answered(world: World, answer: Item | str) -> World:
            assert isinstance(answer, Item)
            return self._with(world, self._has_staged(tx, answer))

        def lost(world: World) -> World:
            return self._with(world, tx._replace(looking=True))

        yield from self._send(act, Request("create", 0, name, tx.content), before, answered, lost)

    def _has_staged(self, tx: Tx, item: Item) -> Tx:
        tx = tx._replace(staged=item.id, looking=False, unsure=False)
        if item.name == TARGET:
            tx = tx._replace(finding=None)
        return self._become(tx, Stage.STAGED)

    # -- set aside and promote

    def _staged(self, tx: Tx) -> Steps:
        if tx.unsure:
            yield self._look_at_staged(tx)
        elif tx.asking:
            yield self._look_at_aside(tx)
        elif tx.finding is None:
            yield self._find(tx)
        elif tx.finding.id == tx.staged:
            yield self._found_promoted("sees H at T", tx)
        elif tx.finding.id and tx.verb is Verb.MKDIR:
            yield self._local("gives up: T exists", self._become(tx, Stage.CANCELLED))
        elif tx.finding.id and self._rules.r8 and not tx.finding.fresh:
            yield self._local("knows that what it found is old", tx._replace(finding=None))
        elif tx.finding.id:
            yield from self._set_aside(tx, tx.finding)
        else:
            yield from self._promote(tx)

    def _look_at_staged(self, tx: Tx) -> tuple[Step, World]:
        """R6: a lost promote is judged by getting H."""
        item = self._world.item(tx.staged)
        if not self._rules.r6:
            there = self._world.at(TARGET)
            if there is not None and there.id != (tx.base.id if tx.base else 0):
                return self._found_promoted("takes what is at T for H", tx)
            return self._local("finds T as it was", tx._replace(unsure=False))
        if item is None:
            return self._local("gets no H", self._staged_gone(tx))
        own = hidden_name(self._number, "h", tx.tid)
        if item.name in (SOURCE, own) or (hidden(item.name) and not self._rules.r6_own):
            return self._local("gets H, not promoted", tx._replace(unsure=False, finding=None))
        return self._found_promoted("gets H, promoted", tx)

    def _look_at_aside(self, tx: Tx) -> tuple[Step, World]:
        item = self._world.item(tx.asking)
        names = {aside.name for aside in tx.asides}
        finding = Finding(0) if item is not None and item.name in names else None
        return self._local("gets the item it set aside", tx._replace(asking=0, finding=finding))

    def _set_aside(self, tx: Tx, finding: Finding) -> Steps:
        mount = self._mount
        aside = next((aside for aside in tx.asides if aside.id == finding.id), None)
        if aside is None:
            same = tx.base is not None and (finding.id, finding.version) == tx.base[:2]
            aside = Aside(finding.id, hidden_name(self._number, "a", mount.next_tid), found_base=same)
            mount = mount._replace(next_tid=mount.next_tid + 1)
            tx = tx._replace(asides=(*tx.asides, aside))
        before = self._synced(self._with(self._world.with_mount(self._number, mount), tx))

        def answered(world: World, answer: Item | str) -> World:
            if isinstance(answer, Item):
                return self._with(world, tx._replace(finding=Finding(0)))
            left = tuple(other for other in tx.asides if other.id != finding.id)
            return self._with(world, tx._replace(finding=None, asides=left))

        def lost(world: World) -> World:
            return self._with(world, tx._replace(asking=finding.id, finding=None))

        yield from self._send("sets aside", Request("move", finding.id, aside.name), before, answered, lost)

    def _promote(self, tx: Tx) -> Steps:
        def answered(world: World, answer: Item | str) -> World:
            if isinstance(answer, Item):
                return self._promoted(world, tx)
            if answer == NOT_FOUND:
                return self._with(world, self._staged_gone(tx))
            if not self._rules.r5 and tx.verb is not Verb.MKDIR:
                return self._with(world, self._begin_undo(tx))
            return self._with(world, tx._replace(finding=None))

        def lost(world: World) -> World:
            return self._with(world, tx._replace(unsure=True, resent=True, finding=None))

        silent = tx.unlinked or tx.verb is Verb.MKDIR
        frees = () if silent else (tx.base.content if tx.base else "",)
        request = Request("move", tx.staged, TARGET, promotes=frees)
        yield from self._send("promotes", request, self._world, answered, lost)

    def _found_promoted(self, act: str, tx: Tx) -> tuple[Step, World]:
        return Step(self._who, act), self._promoted(self._world, tx)

    def _promoted(self, world: World, tx: Tx) -> World:
        """R2: what was placed here is told by its bytes, whatever its `updatedAt`."""
        mount, item = world.mounts[self._number], world.item(tx.staged)
        base = Base(tx.staged, 0 if self._rules.r2 or item is None else item.version, tx.content)
        tx = self._become(tx, Stage.PLACED)._replace(finding=None, unsure=False, resent=False, asking=0)
        return self._with(world.with_mount(self._number, mount._replace(base=base)), tx)

    def _staged_gone(self, tx: Tx) -> Tx:
        if not tx.local:
            return self._begin_undo(tx)
        tx = self._become(tx, Stage.STAGING)
        return tx._replace(tid=0, staged=0, unsure=False, resent=False, finding=None)

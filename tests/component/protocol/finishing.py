"""What ends a transaction: undo, judging what was set aside, taking back what was cancelled; and strays."""

from __future__ import annotations

from jobfs.state.records import Stage, Verb

from .actor import Actor, Steps
from .explorer import Step
from .model import BESIDE, TARGET, Aside, Fate, Item, Request, Tx, World, execute, hidden, hidden_name


class Finishing(Actor):
    """What a mount does once new content is placed, or can't be."""

    # -- undo

    def _undo(self, tx: Tx) -> Steps:
        assert tx.undoing is not None
        if not tx.undoing:
            if tx.verb is Verb.PUT and self._world.item(tx.staged) is not None:
                yield from self._discard(tx)
                return
            tx = self._become(tx, Stage.DONE)
            # Bytes that are here stay, as refused.
            failed = tx._replace(refused=True, asides=(), undoing=None) if tx.local else None
            yield self._local("has undone it", failed)
            return
        first, rest = tx.undoing[0], tx.undoing[1:]
        item = self._world.item(first)
        mine = next(aside for aside in tx.asides if aside.id == first)
        if item is None or item.name != mine.name:
            yield self._local("leaves an item alone", tx._replace(undoing=rest))
            return
        name = TARGET if self._world.at(TARGET) is None else BESIDE
        yield from self._send(
            f"gives back to {name}",
            Request("move", first, name),
            self._world,
            lambda world, answer: self._with(world, tx._replace(undoing=rest)),
            lambda world: self._with(world, tx._replace(undoing=None, unsure=True)),
        )

    def _discard(self, tx: Tx) -> Steps:
        request, same = Request("delete", tx.staged), self._world
        yield from self._send("discards H", request, same, lambda world, answer: world, lambda world: world)

    # -- judging

    def _promoted_steps(self, tx: Tx) -> Steps:
        if not tx.safe:
            yield self._make_safe(tx, tx._replace(safe=True, local=False, looking=False))
            return
        yield from self._judge_or_end(tx)

    def _make_safe(self, tx: Tx, after: Tx) -> tuple[Step, World]:
        """R3: on the disk before local bytes are freed and before the first delete."""
        world = self._with(self._world, after)
        if self._rules.r3:
            return Step(self._who, f"syncs {tx.stage}"), self._synced(world)
        return Step(self._who, "frees the local bytes"), world

    def _judge_or_end(self, tx: Tx) -> Steps:
        if not tx.asides:
            self._become(tx, Stage.DONE)
            yield self._local("is done", None)
            return
        if tx.stage is Stage.CANCELLED and self._rules.r11:
            newest = sorted(tx.asides, key=lambda aside: int(aside.name[2:]), reverse=True)
            tx = tx._replace(asides=tuple(newest))
        aside = tx.asides[0]
        if aside.verdict:
            yield from self._carry_out(tx, aside)
            return
        if self._rules.r7_wait and self._unanswered(aside.id):
            return
        item = self._world.item(aside.id)
        if item is None or (self._rules.r7_look and item.name != aside.name):
            yield self._local("forgets an aside", tx._replace(asides=tx.asides[1:]))
            return
        verdict = "delete" if self._ours(tx, aside, item) else "keep"
        judged = aside._replace(verdict=verdict)
        yield self._local("judges", tx._replace(asides=(judged, *tx.asides[1:])), verdict)

    def _ours(self, tx: Tx, aside: Aside, item: Item) -> bool:
        """R1: by content, after the move."""
        if aside.fate is not Fate.CHECK:
            return False
        if not self._rules.r1:
            return aside.found_base
        if self._rules.r1_renamed and item.id in self._mount.renamed:
            return False
        read = tx.base is not None and tx.base.read and item.content == tx.base.content
        if read or item.content == tx.content:
            return True
        same_version = tx.base is not None and (item.id, item.version) == tx.base[:2]
        young = self._scenario.one_tick and self._rules.r1_young
        return same_version and not (self._scenario.moves_touch or young)

    def _carry_out(self, tx: Tx, aside: Aside) -> Steps:
        rest = tx._replace(asides=tx.asides[1:])
        again = tx._replace(asides=(aside._replace(verdict=""), *tx.asides[1:]))
        if aside.verdict == "delete":
            act, request = "deletes an aside", Request("delete", aside.id)
        elif aside.fate is Fate.RETURN and self._world.at(TARGET) is None:
            act, request = "gives an aside back", Request("move", aside.id, TARGET)
        else:
            act, request = "keeps an aside beside", Request("move", aside.id, BESIDE)
        yield from self._send(
            act,
            request,
            self._world,
            lambda world, answer: self._with(world, rest),
            lambda world: self._with(world, again),
        )

    # -- cancelled

    def _cancelled_steps(self, tx: Tx) -> Steps:
        if not tx.safe:
            after = tx._replace(safe=True, looking=False, finding=None, asking=0)
            yield self._make_safe(tx, after)
        elif tx.verb is Verb.PUT and tx.taken_back == 2:
            # Its name is free: what was set aside holds up nothing else there.
            after = self._become(tx, Stage.PLACED)._replace(local=False)
            yield self._local("has taken it back", after)
        elif tx.verb is Verb.MOVE or tx.taken_back == 2:
            yield from self._judge_or_end(tx._replace(local=False))
        else:
            yield from self._take_back(tx)

    def _take_back(self, tx: Tx) -> Steps:
        """H where it is ours, then T's item if it is the base or our own bytes."""
        world, known = self._world, {tx.content, tx.base.content if tx.base else tx.content}
        following = tx._replace(taken_back=tx.taken_back + 1)
        if tx.taken_back == 0:
            item = world.item(tx.staged) if tx.staged else world.at(hidden_name(self._number, "h", tx.tid))
            same = item is not None and item.content == tx.content
            ours = item is not None and (hidden(item.name) or same or not self._rules.r10_ours)
        else:
            item = world.at(TARGET)
            base = tx.base.id if tx.base else 0
            mine = item is not None and (item.id in (base, tx.staged) or tx.direct)
            ours = mine and item is not None and item.content in known
        if item is None or not ours:
            yield self._local("finds nothing to take back", following)
            return
        yield from self._send(
            "takes an item back",
            Request("delete", item.id),
            world,
            lambda world, answer: self._with(world, following),
            lambda world: world,
        )

    # -- hidden items that no record explains

    def _strays(self) -> Steps:
        """R4: exposed, never deleted."""
        mount, number = self._mount, self._number
        ids = {tx.staged for tx in mount.txs} | {aside.id for tx in mount.txs for aside in tx.asides}
        tids = {tx.tid for tx in mount.txs}
        for item in self._world.items:
            if not hidden(item.name) or int(item.name[0]) != number or item.id in ids:
                continue
            role, tid = item.name[1], int(item.name[2:])
            if role == "h" and tid in tids:
                continue
            if not self._rules.r4 or (role == "h" and tid in mount.tombs):
                act, request = f"deletes the stray {item.name}", Request("delete", item.id)
            else:
                free = role == "a" and self._world.at(TARGET) is None
                name = TARGET if free else BESIDE
                act, request = f"shows the stray {item.name} at {name}", Request("move", item.id, name)
            after, _ = execute(self._world, request, self._scenario)
            yield Step(self._who, act), after

    def _cancelled(self, tx: Tx) -> Tx:
        tx = tx._replace(unlinked=True, unrecorded=False, undoing=None)
        return self._become(tx, Stage.CANCELLED)

"""How a mount acts: one step is a request, with what is written to the journal before and after it.

A request can lose its answer (carried out never, at once or late), and the process can die before or after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.support.interferences import Execution

from jobfs.state.records import Stage, Verb

from .model import (
    BESIDE,
    NOT_FOUND,
    SOURCE,
    TARGET,
    Aside,
    Base,
    Fate,
    Finding,
    Item,
    Request,
    Rule,
    Scenario,
    Step,
    Tx,
    World,
    aside_in_flight,
    crash,
    execute,
    hidden,
    hidden_name,
    moved_to,
    promote,
    set_aside,
    written,
)

Steps = Iterator[tuple[Step, World]]
MOUNTS = ("one", "two")


class Run:
    """One scenario, `without` a rule or with all; `taken`, `verbs`, `fates`: what of the code's own was seen so far."""

    def __init__(self, scenario: Scenario, without: Rule = "") -> None:
        self.scenario = scenario
        self.without = without
        self.taken: set[tuple[Stage, Stage]] = set()
        self.verbs: set[Verb] = set()
        self.fates: set[Fate] = set()


class Actor:
    """One mount in one state of the world."""

    def __init__(self, run: Run, world: World, number: int) -> None:
        self._run = run
        self._scenario = run.scenario
        self._world = world
        self._number = number
        self._mount = world.mounts[number]
        self._who = MOUNTS[number]
        #: Of the transaction that acts.
        self._index = 0

    def _keeps(self, rule: Rule) -> bool:
        return rule != self._run.without

    def _local(self, act: str, tx: Tx | None, outcome: str = "") -> tuple[Step, World]:
        """A step without a changing request: the transaction becomes `tx`."""
        return Step(self._who, act, outcome), self._world.with_tx(self._number, self._index, tx)

    def _become(self, tx: Tx, stage: Stage) -> Tx:
        return moved_to(tx, stage, self._run.taken)

    def _send(
        self,
        act: str,
        request: Request,
        before: World,
        answered: Callable[[World, Item | str], World],
        lost: Callable[[World], World] | None,
    ) -> Steps:
        """A request sent in the world `before` (journal written): answered, lost, or the last thing this process did."""
        request = request._replace(by=self._number)
        after, answer = execute(before, request, self._scenario)
        yield Step(self._who, act, answer if isinstance(answer, str) else ""), answered(after, answer)
        losing = before.losses and lost and any(part in act for part in self._scenario.losing)
        if losing and lost:
            fewer = before._replace(losses=before.losses - 1)
            ways: dict[Execution, World] = {
                "never": fewer,
                "at once": execute(fewer, request, self._scenario)[0],
                "late": fewer._replace(late=(*fewer.late, request)),
            }
            for way in self._scenario.lost:
                yield Step(self._who, act, way), lost(ways[way])
        if before.kills:
            yield Step(self._who, act, "killed before"), self._killed(before)
            yield Step(self._who, act, "killed after"), self._killed(after)
            if losing and "late" in self._scenario.lost:
                late = before._replace(losses=before.losses - 1, late=(*before.late, request))
                yield Step(self._who, act, "killed, late"), self._killed(late)

    def _killed(self, world: World) -> World:
        return crash(world._replace(kills=world.kills - 1), self._number)

    def _with(self, world: World, tx: Tx | None) -> World:
        return world.with_tx(self._number, self._index, tx)

    def _synced(self, world: World) -> World:
        """The (S) of the protocol; worth a state only where power can be lost."""
        if not world.powers:
            return world
        mount = world.mounts[self._number]
        return world.with_mount(self._number, mount._replace(disk=written(mount)))

    def _unanswered(self, item_id: int) -> bool:
        """True while a request of this mount on the item may still be carried out."""
        return any(request.id == item_id and request.by == self._number for request in self._world.late)

    def _begin_undo(self, tx: Tx) -> Tx:
        order = [aside.id for aside in tx.asides]
        return tx._replace(undoing=tuple(reversed(order)) if self._keeps("r11") else tuple(order))

    def _queue(self, tx: Tx, finding: Finding) -> Steps:
        """R8: the request that a look justifies may have to wait for its connection, until the look is old."""
        if self._world.queues and not tx.connected:
            waited = tx._replace(finding=finding._replace(fresh=False), connected=True)
            world = self._with(self._world, waited)._replace(queues=self._world.queues - 1)
            yield Step("fate", f"makes a request of {self._who} wait"), world

    # -- the first half of a save (save/protocol.md, The steps): staging

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
        if not self._keeps("r9") and free and tx.verb is Verb.PUT:
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
            yield Step(self._who, "sees H at T"), self._promoted(self._world, tx)
        elif tx.finding.id and tx.verb is Verb.MKDIR:
            yield self._local("gives up: T exists", self._become(tx, Stage.CANCELLED))
        elif tx.finding.id and not tx.finding.fresh and self._keeps("r8_sent" if tx.connected else "r8"):
            yield self._look_again(tx, tx.finding)
        elif tx.finding.id:
            yield from self._queue(tx, tx.finding)
            if self._may_overlap(tx, tx.finding):
                yield self._send_both(tx, tx.finding)
            elif self._scenario.takes_time:
                sent, before = self._planned(tx, tx.finding)
                sent = sent._replace(setting="sent", connected=False)
                yield Step(self._who, "has sent the set-aside"), self._with(before, sent)
            else:
                yield from self._set_aside(tx, tx.finding)
        elif self._scenario.takes_time:
            yield self._local("has sent promote", tx._replace(promoting="sent"))
        else:
            yield from self._promote(tx)

    def _look_again(self, tx: Tx, finding: Finding) -> tuple[Step, World]:
        """R8: an old look at an item is repeated on the connection that is held, and its request follows there."""
        item = self._world.item(finding.id)
        if item is None or item.name != TARGET:
            return self._local("sees that it is elsewhere", tx._replace(finding=None, connected=False))
        again = Finding(item.id, item.version)
        return self._local("sees that it is still there", tx._replace(finding=again, connected=True))

    def _look_at_staged(self, tx: Tx) -> tuple[Step, World]:
        """R6: a lost promote is judged by getting H."""
        item = self._world.item(tx.staged)
        if not self._keeps("r6"):
            there = self._world.at(TARGET)
            if there is not None and there.id != (tx.base.id if tx.base else 0):
                return Step(self._who, "takes what is at T for H"), self._promoted(self._world, tx)
            return self._local("finds T as it was", tx._replace(unsure=False))
        if item is None:
            return self._local("gets no H", self._staged_gone(tx))
        own = hidden_name(self._number, "h", tx.tid)
        if item.name in (SOURCE, own) or (hidden(item.name) and not self._keeps("r6_own")):
            return self._local("gets H, not promoted", tx._replace(unsure=False, finding=None))
        return Step(self._who, "gets H, promoted"), self._promoted(self._world, tx)

    def _look_at_aside(self, tx: Tx) -> tuple[Step, World]:
        item = self._world.item(tx.asking)
        names = {aside.name for aside in tx.asides}
        finding = Finding(0) if item is not None and item.name in names else None
        return self._local("gets the item it set aside", tx._replace(asking=0, finding=finding))

    def _planned(self, tx: Tx, finding: Finding) -> tuple[Tx, World]:
        """The item that was found is in the journal as one to be set aside, and that is synced."""
        mount = self._mount
        if all(aside.id != finding.id for aside in tx.asides):
            same = tx.base is not None and (finding.id, finding.version) == tx.base[:2]
            aside = Aside(finding.id, hidden_name(self._number, "a", mount.next_tid), found_base=same)
            mount = mount._replace(next_tid=mount.next_tid + 1)
            tx = tx._replace(asides=(*tx.asides, aside))
        return tx, self._synced(self._with(self._world.with_mount(self._number, mount), tx))

    def _may_overlap(self, tx: Tx, finding: Finding) -> bool:
        """R13: the first item set aside, nothing unsure, on a server that was seen to refuse a move onto an item."""
        if not self._scenario.overlaps or (self._scenario.moves_replace and self._keeps("r13_refuses")):
            return False
        unsure = tx.resent or any(self._unanswered(item) for item in (finding.id, tx.staged))
        return not tx.asides and not unsure

    def _send_both(self, tx: Tx, finding: Finding) -> tuple[Step, World]:
        tx, before = self._planned(tx, finding)
        sent = tx._replace(setting="sent", promoting="sent", connected=False)
        return Step(self._who, "has sent set-aside and promote"), self._with(before, sent)

    def _flights(self, tx: Tx) -> Steps:
        """Each request in flight is carried out or lost, in any order; once all have an outcome, the mount decides."""
        if tx.setting == "sent":
            request = set_aside(tx, self._number)
            yield from self._arrives(tx, "sets aside", request, lambda came: tx._replace(setting=came))
        if tx.promoting == "sent":
            request = promote(tx, self._number)
            yield from self._arrives(tx, "promotes", request, lambda came: tx._replace(promoting=came))
        if "sent" not in (tx.setting, tx.promoting):
            yield self._answered(tx)

    def _arrives(self, tx: Tx, act: str, request: Request, note: Callable[[str], Tx]) -> Steps:
        def answered(world: World, answer: Item | str) -> World:
            refusal = "gone" if answer == NOT_FOUND else "refused"
            return self._with(world, note("done" if isinstance(answer, Item) else refusal))

        def lost(world: World) -> World:
            if tx.stage is Stage.CANCELLED:
                world = world._replace(expected="?")  # R7: what may have been set aside is kept beside T
            return self._with(world, note("lost"))

        yield from self._send(f"{act}, answered later", request, self._world, answered, lost)

    def _answered(self, tx: Tx) -> tuple[Step, World]:
        """Promote's outcome is looked at first: H at T is placed. If both were sent, its refusal means that it came too early."""
        setting, promoting = tx.setting, tx.promoting
        aside = aside_in_flight(tx) if setting else None
        tx = tx._replace(setting="", promoting="", finding=None)
        if aside is not None and setting in ("refused", "gone"):
            tx = tx._replace(asides=tuple(other for other in tx.asides if other.id != aside.id))
        if setting == "lost" and promoting == "done" and not self._keeps("r13_kept"):
            tx = tx._replace(asides=())
        if tx.stage is Stage.CANCELLED:
            tx = tx._replace(gives_back=tx.gives_back and setting != "lost")
            return self._local("has the answers, and was cancelled", tx)
        if promoting == "done" or (promoting and setting == "done" and not self._keeps("r13_own")):
            return Step(self._who, "has promoted"), self._promoted(self._world, tx)
        if promoting == "lost":
            return self._local("does not know whether it has promoted", tx._replace(unsure=True, resent=True))
        if promoting == "gone" and not setting:
            return self._local("hears that H is gone", self._staged_gone(tx))
        return self._not_promoted(tx, aside, setting, promoting)

    def _not_promoted(self, tx: Tx, aside: Aside | None, setting: str, promoting: str) -> tuple[Step, World]:
        """The set-aside's outcome decides, as if promote had not been sent."""
        if setting and promoting and not self._keeps("r13_early"):
            return self._local("takes the early refusal for its end", self._begin_undo(tx))
        asking = aside.id if aside is not None and setting == "lost" else 0
        finding = Finding(0) if setting == "done" else None
        return self._local("has the answers, not promoted", tx._replace(asking=asking, finding=finding))

    def _set_aside(self, tx: Tx, finding: Finding) -> Steps:
        tx, before = self._planned(tx, finding)
        aside = next(aside for aside in tx.asides if aside.id == finding.id)

        def answered(world: World, answer: Item | str) -> World:
            if isinstance(answer, Item):
                return self._with(world, tx._replace(finding=Finding(0), connected=False))
            left = tuple(other for other in tx.asides if other.id != finding.id)
            return self._with(world, tx._replace(finding=None, asides=left, connected=False))

        def lost(world: World) -> World:
            return self._with(world, tx._replace(asking=finding.id, finding=None, connected=False))

        yield from self._send("sets aside", Request("move", finding.id, aside.name), before, answered, lost)

    def _promote(self, tx: Tx) -> Steps:
        def answered(world: World, answer: Item | str) -> World:
            if isinstance(answer, Item):
                return self._promoted(world, tx)
            if answer == NOT_FOUND:
                return self._with(world, self._staged_gone(tx))
            if not self._keeps("r5") and tx.verb is not Verb.MKDIR:
                return self._with(world, self._begin_undo(tx))
            return self._with(world, tx._replace(finding=None))

        def lost(world: World) -> World:
            return self._with(world, tx._replace(unsure=True, resent=True, finding=None))

        yield from self._send("promotes", promote(tx, self._number), self._world, answered, lost)

    def _promoted(self, world: World, tx: Tx) -> World:
        """R2: what was placed here is told by its bytes, whatever its `updatedAt`."""
        mount, item = world.mounts[self._number], world.item(tx.staged)
        base = Base(tx.staged, 0 if self._keeps("r2") or item is None else item.version, tx.content)
        tx = self._become(tx, Stage.PLACED)._replace(finding=None, unsure=False, resent=False, asking=0)
        return self._with(world.with_mount(self._number, mount._replace(base=base)), tx)

    def _staged_gone(self, tx: Tx) -> Tx:
        if not tx.local:
            return self._begin_undo(tx)
        tx = self._become(tx, Stage.STAGING)
        return tx._replace(tid=0, staged=0, unsure=False, resent=False, finding=None)

    # -- what ends a transaction: undo

    def _undo(self, tx: Tx) -> Steps:
        assert tx.undoing is not None
        if not tx.undoing:
            if tx.verb is Verb.PUT and self._world.item(tx.staged) is not None:
                yield from self._send(
                    "discards H",
                    Request("delete", tx.staged),
                    self._world,
                    lambda world, _: world,
                    lambda world: world,
                )
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

    # -- judging

    def _promoted_steps(self, tx: Tx) -> Steps:
        if not tx.safe:
            yield self._make_safe(tx, tx._replace(safe=True, local=False, looking=False))
            return
        yield from self._judge_or_end(tx)

    def _make_safe(self, tx: Tx, after: Tx) -> tuple[Step, World]:
        """R3: on the disk before local bytes are freed and before the first delete."""
        world = self._with(self._world, after)
        if self._keeps("r3"):
            return Step(self._who, f"syncs {tx.stage}"), self._synced(world)
        return Step(self._who, "frees the local bytes"), world

    def _judge_or_end(self, tx: Tx) -> Steps:
        if tx.asides:
            yield from self._judge(tx)
            return
        self._become(tx, Stage.DONE)
        yield self._local("is done", None)

    def _judge(self, tx: Tx, *, back: bool = False) -> Steps:
        """R1; `back`: what is kept gets T, if that is free."""
        if tx.stage is Stage.CANCELLED and self._keeps("r11"):
            newest = sorted(tx.asides, key=lambda aside: int(aside.name[2:]), reverse=True)
            tx = tx._replace(asides=tuple(newest))
        aside = tx.asides[0]
        if aside.verdict:
            yield from self._carry_out(tx, aside, back=back)
            return
        if self._keeps("r7_wait") and self._unanswered(aside.id):
            return
        item = self._world.item(aside.id)
        if item is None or (self._keeps("r7_look") and item.name != aside.name):
            yield self._local("forgets an aside", tx._replace(asides=tx.asides[1:]))
            return
        verdict = "delete" if self._ours(tx, aside, item) else "keep"
        judged = aside._replace(verdict=verdict)
        yield self._local("judges", tx._replace(asides=(judged, *tx.asides[1:])), verdict)

    def _ours(self, tx: Tx, aside: Aside, item: Item) -> bool:
        """R1: by content, after the move."""
        if aside.fate is not Fate.CHECK:
            return False
        if not self._keeps("r1"):
            return aside.found_base
        if self._keeps("r1_renamed") and item.id in self._mount.renamed:
            return False
        read = tx.base is not None and tx.base.read and item.content == tx.base.content
        if read or item.content == tx.content:
            return True
        same_version = tx.base is not None and (item.id, item.version) == tx.base[:2]
        young = self._scenario.one_tick and self._keeps("r1_young")
        return same_version and not (self._scenario.moves_touch or young)

    def _carry_out(self, tx: Tx, aside: Aside, *, back: bool) -> Steps:
        rest = tx._replace(asides=tx.asides[1:])
        again = tx._replace(asides=(aside._replace(verdict=""), *tx.asides[1:]))
        if aside.verdict == "delete":
            act, request = "deletes an aside", Request("delete", aside.id)
        elif (aside.fate is Fate.RETURN or back) and self._world.at(TARGET) is None:
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
        """What was set aside if H was not placed, H where it is ours, then T's item if it is the base or our own bytes."""
        world, known = self._world, {tx.content, tx.base.content if tx.base else tx.content}
        following = tx._replace(taken_back=tx.taken_back + 1)
        if tx.taken_back == 0:
            own = hidden_name(self._number, "h", tx.tid)
            item = world.item(tx.staged) if tx.staged else world.at(own)
            if tx.gives_back and tx.asides and item is not None and item.name == own:
                yield from self._judge(tx, back=True)
                return
            ours = item is not None and (item.name == own or self._told_by_bytes(tx, item))
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

    def _told_by_bytes(self, tx: Tx, item: Item) -> bool:
        """R10: where H is not under its hidden name it is ours at T, with the bytes that were sent."""
        same = item.content == tx.content or not self._keeps("r10_ours")
        return same and (item.name == TARGET or not self._keeps("r10_place"))

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
            if not self._keeps("r4") or (role == "h" and tid in mount.tombs):
                act, request = f"deletes the stray {item.name}", Request("delete", item.id)
            else:
                free = role == "a" and self._world.at(TARGET) is None
                name = TARGET if free else BESIDE
                act, request = f"shows the stray {item.name} at {name}", Request("move", item.id, name)
            after, _ = execute(self._world, request, self._scenario)
            yield Step(self._who, act), after

    def _cancelled(self, tx: Tx) -> Tx:
        sure = not tx.asking and self._keeps("r10_back")
        tx = tx._replace(unlinked=True, unrecorded=False, undoing=None, gives_back=sure)
        return self._become(tx, Stage.CANCELLED)

"""A mount and its user, as save/protocol.md says: one step is a request, with what is written to the journal before and after it.

A request can lose its answer (carried out never, at once or late), and the process can die before or after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.support.interferences import Execution

from jobfs.state.records import Stage, Verb

from .model import Aside, Base, Fate, Finding, Item, Mount, Outcome, Request, Run, Step, Tx, World
from .scenarios import BESIDE, ELSEWHERE, SOURCE, TARGET, Rule, hidden_name

Steps = Iterator[tuple[Step, World]]
MOUNTS = ("one", "two")


class Mounted:
    """A mount that is up, in one state of the world."""

    def __init__(self, run: Run, world: World, number: int) -> None:
        self._run = run
        self._scenario = run.scenario
        self._world = world
        self._number = number
        self._mount = world.mounts[number]
        self._who = MOUNTS[number]
        #: Of the transaction that acts.
        self._index = 0

    def steps(self) -> Steps:
        """What it and its user may do next."""
        yield from self._user()
        yield from self._strays()
        for index, tx in enumerate(self._mount.txs):
            self._index = index
            # R10: a cancelled save ends before the next one of the same target.
            waits = any(other.stage is Stage.CANCELLED for other in self._mount.txs[:index])
            if not (tx.refused or waits):
                yield from self._next(tx)

    def _next(self, tx: Tx) -> Steps:
        self._run.verbs.add(tx.verb)
        self._run.fates |= {aside.fate for aside in tx.asides}
        if tx.unrecorded:
            yield self._local("records the unlink", self._cancelled(tx))
        elif tx.setting or tx.promoting:
            yield from self._flights(tx)
        elif tx.undoing is not None:
            yield from self._undo(tx, tx.undoing)
        elif tx.verb is Verb.REMOVE:
            yield from self._remove(tx)
        elif tx.stage is Stage.STAGING:
            yield from self._staging(tx)
        elif tx.stage is Stage.STAGED:
            yield from self._given_up(tx)
            yield from self._staged(tx)
        elif tx.stage is Stage.CANCELLED:
            yield from self._cancelled_steps(tx)
        elif not tx.safe:
            yield self._make_safe(tx, tx._replace(safe=True, local=False, looking=False))
        else:
            yield from self._judge_or_end(tx)

    def _keeps(self, rule: Rule) -> bool:
        return rule != self._run.without

    def _local(self, act: str, tx: Tx | None, outcome: str = "") -> tuple[Step, World]:
        """A step without a changing request: the transaction becomes `tx`."""
        return Step(self._who, act, outcome), self._with(self._world, tx)

    def _with(self, world: World, tx: Tx | None) -> World:
        return world.with_tx(self._number, self._index, tx)

    def _send(
        self, act: str, request: Request, before: World, then: Callable[[World, Item | Outcome], World]
    ) -> Steps:
        """A request sent in the world `before` (journal written): answered, lost, or the last thing this process did."""

        def step(outcome: str) -> Step:
            return Step(self._who, act, outcome, request.operation)

        request = request._replace(by=self._number)
        after, answer = before.carry_out(request, self._scenario)
        yield step(answer if isinstance(answer, Outcome) else ""), then(after, answer)
        losing = "loss" in before.mishaps and any(part in act for part in self._scenario.losing)
        if losing:
            fewer = before.once_more("loss")
            late = fewer._replace(late=(*fewer.late, request))
            at_once, _ = fewer.carry_out(request, self._scenario)
            ways: dict[Execution, World] = {"never": fewer, "at once": at_once, "late": late}
            for way in self._scenario.lost:
                yield step(way), then(ways[way], Outcome.LOST)
        if "kill" in before.mishaps:
            yield step("killed before"), self._killed(before)
            yield step("killed after"), self._killed(after)
            if losing and "late" in self._scenario.lost:
                yield step("killed, late"), self._killed(late)

    def _killed(self, world: World) -> World:
        return world.once_more("kill").crashed(self._number)

    def _synced(self, world: World) -> World:
        """The (S) of the protocol; worth a state only where power can be lost."""
        if "power" not in world.mishaps:
            return world
        mount = world.mounts[self._number]
        return world.with_mount(self._number, mount._replace(disk=mount.synced))

    def _unanswered(self, item_id: int) -> bool:
        """True while a request of this mount on the item may still be carried out."""
        return any(request.id == item_id and request.by == self._number for request in self._world.late)

    def _queue(self, tx: Tx, finding: Finding) -> Steps:
        """R8: the request that a look justifies may have to wait for its connection, until the look is old."""
        if "queue" in self._world.mishaps and not tx.connected:
            waited = tx._replace(finding=finding._replace(fresh=False), connected=True)
            world = self._with(self._world, waited).once_more("queue")
            yield Step("fate", f"makes a request of {self._who} wait"), world

    # -- the user

    def _user(self) -> Steps:
        if not self._mount.todo:
            return
        act, _, content = self._mount.todo[0].partition(" ")
        mount = self._mount._replace(todo=self._mount.todo[1:])
        busy = [tx for tx in mount.txs if tx.stage in (Stage.STAGING, Stage.STAGED) and not tx.refused]
        if act == "unlink":
            worlds = [self._unlinked(mount, busy[0])] if busy else []
        else:
            worlds = [] if busy else self._done(mount, act, content)
        for world in worlds:
            yield Step(f"user of {self._who}", self._mount.todo[0]), world

    def _done(self, mount: Mount, act: str, content: str) -> list[World]:
        """The world in which the user has done something, if that is possible."""
        world, there, tx = self._world, self._world.at(TARGET), None
        if act in ("open", "truncate"):
            base = Base(there.id, there.version, there.content, act == "open") if there else None
            mount = mount._replace(base=base)
        elif act == "save":
            tx = Tx(Verb.PUT, Stage.STAGING, content, mount.base)
            world = world._replace(owed=world.owed | {content})
        elif act == "mkdir":
            tx = Tx(Verb.MKDIR, Stage.STAGING, content, local=False)
            world = world._replace(expected="?")
        elif act == "rename":
            if (source := world.at(SOURCE)) is not None:
                tx = Tx(Verb.MOVE, Stage.STAGED, source.content, mount.base, staged=source.id, local=False)
        elif there is None:
            return []
        elif act == "move":
            renamed = mount.renamed | ({there.id} if self._unanswered(there.id) else set())
            mount = mount._replace(base=None, renamed=renamed)
            world, _ = world.carry_out(Request("update", there.id, ELSEWHERE), self._scenario)
            # Whoever saves over T has not seen what has another name.
            world = world._replace(expected="", claimed=world.claimed | {there.content})
        else:
            # An open file is hidden at once, and removed in a second; nothing is recorded.
            base = Base(there.id, there.version, there.content)
            tx = Tx(Verb.REMOVE, Stage.STAGED, "", base, local=False)
            world = world._replace(owed=world.owed - {there.content}, expected="?")
        mount = mount._replace(txs=(*mount.txs, tx)) if tx else mount
        return [world.with_mount(self._number, mount)]

    def _unlinked(self, mount: Mount, tx: Tx) -> World:
        """R10: recorded before it returns."""
        self._index = mount.txs.index(tx)
        seen = {tx.content, tx.base.content if tx.base else ""}
        world = self._world.with_mount(self._number, mount)
        world = world._replace(
            owed=world.owed - (seen - world.claimed), expected="" if world.expected in seen | {""} else "?"
        )
        now = self._cancelled(tx) if self._keeps("r10") else tx._replace(unlinked=True, unrecorded=True)
        return self._with(world, now)

    def _cancelled(self, tx: Tx) -> Tx:
        sure = not tx.asking and self._keeps("r10_back")
        tx = tx._replace(unlinked=True, unrecorded=False, undoing=None, gives_back=sure)
        return self._run.moved(tx, Stage.CANCELLED)

    def _remove(self, tx: Tx) -> Steps:
        """An open file that was unlinked: what the job has written to it since stays."""
        assert tx.base is not None
        item = self._world.item(tx.base.id)
        if tx.finding is None and self._keeps("r7_look"):
            if item is not None and item.name == TARGET and item.version == tx.base.version:
                yield self._local("looks at T once more", tx._replace(finding=Finding(tx.base.id)))
            else:
                self._run.moved(tx, Stage.DONE)
                yield self._local("leaves T alone", None)
            return
        if tx.finding is not None:
            yield from self._queue(tx, tx.finding)
            if not tx.finding.fresh and self._keeps("r7_sent"):
                yield self._local(
                    "knows that its look is old, with its connection", tx._replace(finding=None)
                )
                return
        request = Request("delete", tx.base.id)
        yield from self._send("deletes T", request, self._world, lambda world, _: self._with(world, None))

    def _given_up(self, tx: Tx) -> Steps:
        """The server refuses a rename and all that would undo it: the caller gets an error, and cleanup gives back (R11)."""
        waits = not (
            tx.unsure or tx.resent or tx.asking
        )  # nobody waits for one that was taken up from the journal
        if tx.verb is Verb.MOVE and "refusal" in self._world.mishaps and waits:
            asides = tuple(aside._replace(fate=Fate.RETURN) for aside in tx.asides)
            after = self._run.moved(tx, Stage.CANCELLED)._replace(asides=asides, finding=None)
            yield Step("fate", "gives the rename up"), self._with(self._world, after).once_more("refusal")

    # -- the first half of a save (save/protocol.md, The steps): staging

    def _staging(self, tx: Tx) -> Steps:
        if not tx.local and tx.verb is Verb.PUT and (tx.direct or not tx.looking):
            yield self._local("has no bytes to send", self._begin_undo(tx))
        elif tx.looking:
            yield self._look_for_direct(tx) if tx.direct else self._look_for_staged(tx)
        else:
            yield from self._upload(tx)

    def _upload(self, tx: Tx) -> Steps:
        """T is looked at in parallel."""
        if tx.finding is None:
            yield self._find(tx)
        elif tx.finding.fresh and "slow" in self._world.mishaps:
            world = self._with(self._world, tx._replace(finding=tx.finding._replace(fresh=False)))
            yield Step("fate", f"makes the upload of {self._who} long"), world.once_more("slow")
        straight = self._scenario.known_to_reject and tx.base is None and not (tx.tid or tx.taken)
        yield from self._create_direct(tx) if straight and tx.verb is Verb.PUT else self._create(tx)

    def _create_direct(self, tx: Tx) -> Steps:
        """R9: straight to T, on a server that is known to reject a create at an existing path."""
        sent = tx._replace(direct=True)

        def then(world: World, answer: Item | Outcome) -> World:
            if isinstance(answer, Item):
                return self._promoted(world, self._run.moved(sent._replace(staged=answer.id), Stage.STAGED))
            if answer is Outcome.LOST or sent.resent:
                return self._with(world, sent._replace(looking=True, resent=True))
            return self._with(world, sent._replace(direct=False, taken=True, finding=None))

        request = Request("create", 0, TARGET, tx.content)
        yield from self._send("creates T straight", request, self._with(self._world, sent), then)

    def _look_for_direct(self, tx: Tx) -> tuple[Step, World]:
        there = self._world.at(TARGET)
        if there is None:
            return self._local("finds nothing at T", tx._replace(looking=False, resent=True))
        if there.content != tx.content:
            other = tx._replace(direct=False, looking=False, resent=False, taken=True, finding=None)
            return self._local("finds another at T", other)
        placed = self._run.moved(tx._replace(staged=there.id), Stage.STAGED)
        return Step(self._who, "finds its own bytes at T"), self._promoted(self._world, placed)

    def _look_for_staged(self, tx: Tx) -> tuple[Step, World]:
        found = self._world.at(hidden_name(self._number, "h", tx.tid))
        if found is None:
            return self._local("finds nothing staged", tx._replace(tid=0, looking=False))
        return self._local("finds the staged item", self._has_staged(tx, found))

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
        free = tx.base is None and tx.finding is not None and not tx.finding.id
        direct = not self._keeps("r9") and free and tx.verb is Verb.PUT
        name, act = (TARGET, "creates T directly") if direct else (hidden_name(number, "h", tid), "creates H")

        def then(world: World, answer: Item | Outcome) -> World:
            made = self._has_staged(tx, answer) if isinstance(answer, Item) else tx._replace(looking=True)
            return self._with(world, made)

        yield from self._send(act, Request("create", 0, name, tx.content), before, then)

    def _has_staged(self, tx: Tx, item: Item) -> Tx:
        tx = tx._replace(staged=item.id, looking=False, unsure=False)
        if item.name == TARGET:
            tx = tx._replace(finding=None)
        return self._run.moved(tx, Stage.STAGED)

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
        elif not tx.finding.id:
            yield from self._begin(self._world, tx._replace(promoting=Outcome.SENT))
        elif tx.verb is Verb.MKDIR:
            yield self._local("gives up: T exists", self._run.moved(tx, Stage.CANCELLED))
        elif not tx.finding.fresh and self._keeps("r8_sent" if tx.connected else "r8"):
            yield self._look_again(tx, tx.finding)
        else:
            yield from self._queue(tx, tx.finding)
            both = Outcome.SENT if self._may_overlap(tx, tx.finding) else None
            planned, before = self._planned(tx, tx.finding)
            yield from self._begin(
                before, planned._replace(setting=Outcome.SENT, promoting=both, connected=False)
            )

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
        if item.name in (SOURCE, own) or (item.hidden and not self._keeps("r6_own")):
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

    def _begin(self, before: World, sent: Tx) -> Steps:
        """The transaction has sent its set-aside, its promote or both; where answers take no time, one is carried out at once."""
        if self._scenario.takes_time or (sent.setting and sent.promoting):
            yield Step(self._who, "has sent what moves"), self._with(before, sent)
        else:
            yield from self._arrivals(before, sent, self._decided)

    def _flights(self, tx: Tx) -> Steps:
        """Once all requests in flight have an outcome, the mount decides."""
        yield from self._arrivals(self._world, tx, self._with)
        if Outcome.SENT not in (tx.setting, tx.promoting):
            yield Step(self._who, "has its answers"), self._decided(self._world, tx)

    def _arrivals(self, before: World, tx: Tx, follow: Callable[[World, Tx], World]) -> Steps:
        """Each request in flight is carried out or lost, in any order."""

        def then(note: Callable[[Outcome], Tx]) -> Callable[[World, Item | Outcome], World]:
            def answered(world: World, answer: Item | Outcome) -> World:
                if answer is Outcome.LOST and tx.stage is Stage.CANCELLED:
                    world = world._replace(expected="?")  # R7: what may have been set aside is kept beside T
                return follow(world, note(Outcome.DONE if isinstance(answer, Item) else answer))

            return answered

        if tx.setting is Outcome.SENT:
            request = tx.set_aside(self._number)
            yield from self._send("sets aside", request, before, then(lambda came: tx._replace(setting=came)))
        if tx.promoting is Outcome.SENT:
            request = tx.promote(self._number)
            yield from self._send("promotes", request, before, then(lambda came: tx._replace(promoting=came)))

    def _decided(self, world: World, tx: Tx) -> World:
        """Promote's outcome is looked at first: H at T is placed. Else that of the set-aside decides, as if it was sent alone."""
        known = self._without_flights(tx)
        if tx.stage is Stage.CANCELLED:
            gives_back = tx.gives_back and tx.setting is not Outcome.LOST
            return self._with(world, known._replace(gives_back=gives_back))
        taken = tx.promoting and tx.setting is Outcome.DONE and not self._keeps("r13_own")
        if tx.promoting is Outcome.DONE or taken:
            return self._promoted(world, known)
        return self._with(world, self._not_placed(tx, known))

    def _without_flights(self, tx: Tx) -> Tx:
        """The transaction once its requests have outcomes; an aside that was refused is dropped."""
        known = tx._replace(setting=None, promoting=None, finding=None)
        if tx.setting in (Outcome.EXISTS, Outcome.GONE):
            known = known.without_aside(tx.aside_found.id)
        unanswered = tx.setting is Outcome.LOST and tx.promoting is Outcome.DONE
        return known._replace(asides=()) if unanswered and not self._keeps("r13_kept") else known

    def _not_placed(self, tx: Tx, known: Tx) -> Tx:
        if tx.promoting is Outcome.LOST:
            return known._replace(unsure=True, resent=True)
        if tx.promoting is Outcome.GONE and not tx.setting:
            return self._staged_gone(known)
        early: Rule = "r13_early" if tx.setting else "r5"
        if tx.promoting and not self._keeps(early) and tx.verb is not Verb.MKDIR:
            return self._begin_undo(known)
        if tx.setting is Outcome.LOST:
            return known._replace(asking=tx.aside_found.id)
        return known._replace(finding=Finding(0)) if tx.setting is Outcome.DONE else known

    def _promoted(self, world: World, tx: Tx) -> World:
        """R2: what was placed here is told by its bytes, whatever its `updatedAt`."""
        mount, item = world.mounts[self._number], world.item(tx.staged)
        base = Base(tx.staged, 0 if self._keeps("r2") or item is None else item.version, tx.content)
        tx = self._run.moved(tx, Stage.PLACED)._replace(finding=None, unsure=False, resent=False, asking=0)
        return self._with(world.with_mount(self._number, mount._replace(base=base)), tx)

    def _staged_gone(self, tx: Tx) -> Tx:
        if not tx.local:
            return self._begin_undo(tx)
        tx = self._run.moved(tx, Stage.STAGING)
        return tx._replace(tid=0, staged=0, unsure=False, resent=False, finding=None)

    # -- what ends a transaction: undo

    def _begin_undo(self, tx: Tx) -> Tx:
        order = [aside.id for aside in tx.asides]
        return tx._replace(undoing=tuple(reversed(order)) if self._keeps("r11") else tuple(order))

    def _undo(self, tx: Tx, undoing: tuple[int, ...]) -> Steps:
        if undoing:
            yield from self._undo_first(tx, undoing[0], tx._replace(undoing=undoing[1:]))
        elif tx.verb is Verb.PUT and self._world.item(tx.staged) is not None:
            yield from self._send(
                "discards H", Request("delete", tx.staged), self._world, lambda world, _: world
            )
        else:
            # Bytes that are here stay, as refused.
            failed = self._run.moved(tx, Stage.DONE)._replace(refused=True, asides=(), undoing=None)
            yield self._local("has undone it", failed if tx.local else None)

    def _undo_first(self, tx: Tx, first: int, rest: Tx) -> Steps:
        item = self._world.item(first)
        mine = next(aside for aside in tx.asides if aside.id == first)
        if item is None or item.name != mine.name:
            yield self._local("leaves an item alone", rest)
            return

        def then(world: World, answer: Item | Outcome) -> World:
            return self._with(
                world, tx._replace(undoing=None, unsure=True) if answer is Outcome.LOST else rest
            )

        name = TARGET if self._world.at(TARGET) is None else BESIDE
        yield from self._send(f"gives back to {name}", Request("update", first, name), self._world, then)

    # -- judging

    def _make_safe(self, tx: Tx, after: Tx) -> tuple[Step, World]:
        """R3: on the disk before local bytes are freed and before the first delete."""
        world = self._with(self._world, after)
        if self._keeps("r3"):
            return Step(self._who, f"syncs {tx.stage}"), self._synced(world)
        return Step(self._who, "frees the local bytes"), world

    def _judge_or_end(self, tx: Tx) -> Steps:
        if tx.asides:
            yield from self._judge(tx)
        else:
            self._run.moved(tx, Stage.DONE)
            yield self._local("is done", None)

    def _judge(self, tx: Tx, *, back: bool = False) -> Steps:
        """R1; `back`: what is kept gets T, if that is free."""
        if tx.stage is Stage.CANCELLED and self._keeps("r11"):
            newest = sorted(tx.asides, key=lambda aside: int(aside.name[2:]), reverse=True)
            tx = tx._replace(asides=tuple(newest))
        aside, others = tx.asides[0], tx.asides[1:]
        if aside.verdict:
            yield from self._carry_out(tx, aside, back=back or aside.fate is Fate.RETURN)
            return
        if self._keeps("r7_wait") and self._unanswered(aside.id):
            return
        item = self._world.item(aside.id)
        if item is None or (self._keeps("r7_look") and item.name != aside.name):
            yield self._local("forgets an aside", tx._replace(asides=others))
            return
        verdict = "delete" if self._ours(tx, aside, item) else "keep"
        judged = aside._replace(verdict=verdict)
        yield self._local("judges", tx._replace(asides=(judged, *others)), verdict)

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
        others = tx.asides[1:]

        def then(world: World, answer: Item | Outcome) -> World:
            again = (aside._replace(verdict=""), *others)
            return self._with(world, tx._replace(asides=again if answer is Outcome.LOST else others))

        if aside.verdict == "delete":
            act, request = "deletes an aside", Request("delete", aside.id)
        elif back and self._world.at(TARGET) is None:
            act, request = "gives an aside back", Request("update", aside.id, TARGET)
        else:
            act, request = "keeps an aside beside", Request("update", aside.id, BESIDE)
        yield from self._send(act, request, self._world, then)

    # -- cancelled

    def _cancelled_steps(self, tx: Tx) -> Steps:
        if not tx.safe:
            yield self._make_safe(tx, tx._replace(safe=True, looking=False, finding=None, asking=0))
        elif tx.verb is Verb.PUT and tx.taken_back == 2:
            # Its name is free: what was set aside holds up nothing else there.
            after = self._run.moved(tx, Stage.PLACED)._replace(local=False)
            yield self._local("has taken it back", after)
        elif tx.verb is Verb.MOVE or tx.taken_back == 2:
            yield from self._judge_or_end(tx._replace(local=False))
        elif tx.taken_back == 0:
            yield from self._take_back_staged(tx)
        else:
            item = self._world.at(TARGET)
            yield from self._take_back(tx, item if item is not None and self._is_own(tx, item) else None)

    def _take_back_staged(self, tx: Tx) -> Steps:
        """What was set aside if H was not placed, then H where it is ours."""
        own = hidden_name(self._number, "h", tx.tid)
        item = self._world.item(tx.staged) if tx.staged else self._world.at(own)
        if tx.gives_back and tx.asides and item is not None and item.name == own:
            yield from self._judge(tx, back=True)
            return
        mine = item is not None and (item.name == own or self._told_by_bytes(tx, item))
        yield from self._take_back(tx, item if mine else None)

    @staticmethod
    def _is_own(tx: Tx, item: Item) -> bool:
        """True if the item at T is the base, H or one made at T, and has bytes that are known here."""
        base = tx.base or Base(0, 0, tx.content)
        return (item.id in (base.id, tx.staged) or tx.direct) and item.content in (tx.content, base.content)

    def _take_back(self, tx: Tx, item: Item | None) -> Steps:
        following = tx._replace(taken_back=tx.taken_back + 1)
        if item is None:
            yield self._local("finds nothing to take back", following)
            return

        def then(world: World, answer: Item | Outcome) -> World:
            return world if answer is Outcome.LOST else self._with(world, following)

        yield from self._send("takes an item back", Request("delete", item.id), self._world, then)

    def _told_by_bytes(self, tx: Tx, item: Item) -> bool:
        """R10: where H is not under its hidden name it is ours at T, with the bytes that were sent."""
        same = item.content == tx.content or not self._keeps("r10_ours")
        return same and (item.name == TARGET or not self._keeps("r10_place"))

    # -- hidden items that no record explains

    def _strays(self) -> Steps:
        """R4: exposed, never deleted."""
        for item in filter(self._is_stray, self._world.items):
            staged, tid = item.name[1] == "h", int(item.name[2:])
            if not self._keeps("r4") or (staged and tid in self._mount.tombs):
                act, request = f"deletes the stray {item.name}", Request("delete", item.id)
            else:
                name = BESIDE if staged or self._world.at(TARGET) else TARGET
                act, request = f"shows the stray {item.name} at {name}", Request("update", item.id, name)
            after, _ = self._world.carry_out(request, self._scenario)
            yield Step(self._who, act, sends=request.operation), after

    def _is_stray(self, item: Item) -> bool:
        txs = self._mount.txs
        explained = {tx.staged for tx in txs} | {aside.id for tx in txs for aside in tx.asides}
        names = {hidden_name(self._number, "h", tx.tid) for tx in txs}
        ours = item.hidden and item.name.startswith(str(self._number))
        return ours and item.id not in explained and item.name not in names

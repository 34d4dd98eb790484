"""How a mount acts: one step is a request, with what is written to the journal before and after it.

A request can lose its answer (dropped, done, or done late), and the process can die before or after the server has done it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jobfs.state.records import Stage, Verb

from .explorer import Step
from .model import Fate, Item, Request, Rules, Scenario, Tx, World, execute, moved_to
from .surroundings import crash, written

Steps = Iterator[tuple[Step, World]]
MOUNTS = ("one", "two")


class Run:
    """One scenario under some rules; `taken`, `verbs`, `fates`: what of the code's own was seen so far."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.name = scenario.name
        self.scenario = scenario
        self.rules = rules
        self.taken: set[tuple[Stage, Stage]] = set()
        self.verbs: set[Verb] = set()
        self.fates: set[Fate] = set()


class Actor:
    """One mount in one state of the world."""

    def __init__(self, run: Run, world: World, number: int) -> None:
        self._run = run
        self._rules = run.rules
        self._scenario = run.scenario
        self._world = world
        self._number = number
        self._mount = world.mounts[number]
        self._who = MOUNTS[number]
        #: Of the transaction that acts.
        self._index = 0

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
            ways = {
                "dropped": fewer,
                "done": execute(fewer, request, self._scenario)[0],
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
        return tx._replace(undoing=tuple(reversed(order)) if self._rules.r11 else tuple(order))

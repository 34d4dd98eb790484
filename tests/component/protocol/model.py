"""The world of the save protocol, made of immutable values: a server, a job, one or two mounts with their journals.

One target, `T`. A name is one of T, S (the source of a rename), x (where the job may rename T to), c (any visible name
beside T: a conflict copy or a recovered file; there is always room for another), or a hidden name: the mount, a role (h: staged,
a: aside) and a number. Contents are tokens: `o` is the old one, `u…` are a user's, `j…` the job's.

`owed` are the contents that must not be lost: at any instant each of them is in some item on the server or in the local
bytes of a transaction. A content is owed from the moment it was written or acknowledged until somebody who has seen it
replaces or deletes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from enum import StrEnum
from typing import Generic, Literal, NamedTuple, TypeVar

from jobfs.state.records import TRANSITIONS, Stage, Verb

from .scenarios import BESIDE, ELSEWHERE, SOURCE, TARGET, Mishap, Rule, Scenario

#: The directory that T is in.
DIRECTORY = "d"
Operation = Literal["create", "update", "delete"]


class Outcome(StrEnum):
    """What a mount knows of a request: it is in flight, carried out, refused, or its answer does not come."""

    SENT = "sent"
    DONE = "done"
    EXISTS = "400"
    GONE = "404"
    LOST = "lost"


class Fate(StrEnum):
    """What becomes of an item set aside: it is checked; or given back, where a rename was given up."""

    CHECK = "check"
    RETURN = "return"


class Item(NamedTuple):
    """On the server. `version` is what `updatedAt` shows: another number after each change that it shows."""

    id: int
    name: str
    content: str
    version: int = 1

    @property
    def is_dir(self) -> bool:
        return False

    @property
    def path(self) -> str:
        """Where the job has it."""
        return self.name if self.name == ELSEWHERE else f"{DIRECTORY}/{self.name}"

    @property
    def hidden(self) -> bool:
        """True if it has a hidden name."""
        return self.name not in (TARGET, SOURCE, ELSEWHERE, BESIDE)


class Request(NamedTuple):
    """A changing request: create `content` at `name`, move (update) or delete item `id`.

    `promotes`: the contents that are no longer owed once this move has brought new content to T.
    """

    operation: Operation
    id: int = 0
    name: str = ""
    content: str = ""
    promotes: tuple[str, ...] = ()
    by: int = 0


class Base(NamedTuple):
    """What a save replaces; version 0: proves nothing (R2); `read`: its bytes are known here."""

    id: int
    version: int
    content: str
    read: bool = True


class Finding(NamedTuple):
    """What find said of T: an item, or id 0; fresh: at most one round trip ago (R8)."""

    id: int
    version: int = 0
    fresh: bool = True


class Aside(NamedTuple):
    """Recorded: an item set aside. Volatile: `verdict`, and `found_base`: what find said of it before it was moved."""

    id: int
    name: str
    fate: Fate = Fate.CHECK
    found_base: bool = False
    verdict: str = ""


class Tx(NamedTuple):
    """A transaction: what the journal records (up to `local`), and what the process knows of it while it lives."""

    verb: Verb
    stage: Stage
    content: str
    base: Base | None = None
    tid: int = 0
    staged: int = 0
    asides: tuple[Aside, ...] = ()
    refused: bool = False
    #: It may have been created at T (R9).
    direct: bool = False
    #: The bytes are on this machine.
    local: bool = True
    #: The user has unlinked the file (known to the model only).
    unlinked: bool = False
    # Volatile:
    #: A create was not answered.
    looking: bool = False
    #: A promote was not answered, or the process is a new one.
    unsure: bool = False
    #: A promote of this H may have been carried out unseen.
    resent: bool = False
    finding: Finding | None = None
    #: The item whose set-aside was not answered.
    asking: int = 0
    undoing: tuple[int, ...] | None = None
    #: The request that `finding` justifies has waited for its connection, and has it.
    connected: bool = False
    #: `placed` or `cancelled` is on the disk.
    safe: bool = False
    #: Of a cancelled save: how far taking back has come.
    taken_back: int = 0
    #: What it has set aside goes back to T, if H was not placed: it was cancelled in this life, and each set-aside was answered.
    gives_back: bool = False
    #: The unlink is not recorded yet.
    unrecorded: bool = False
    #: T exists: not to be created there.
    taken: bool = False
    #: Set-aside and promote, one or both (R13) of them in flight, then the outcome that this process has not seen yet.
    setting: Outcome | None = None
    promoting: Outcome | None = None

    @property
    def recorded(self) -> Tx:
        """What the journal holds of it."""
        asides = tuple(aside._replace(verdict="") for aside in self.asides)
        return Tx(*self[:10], unlinked=self.unlinked)._replace(asides=asides)

    @property
    def revived(self) -> Tx:
        """What another process makes of the record."""
        staged = self.stage is Stage.STAGED
        looking = self.stage is Stage.STAGING and (self.tid > 0 or self.direct)
        return self._replace(unsure=staged, resent=staged, looking=looking)

    @property
    def aside_found(self) -> Aside:
        """The record of the item that `finding` names."""
        return next(
            aside for aside in self.asides if self.finding is not None and aside.id == self.finding.id
        )

    def without_aside(self, item: int) -> Tx:
        return self._replace(asides=tuple(aside for aside in self.asides if aside.id != item))

    def set_aside(self, number: int) -> Request:
        """The move of the item that was found to its hidden name."""
        return Request("update", self.aside_found.id, self.aside_found.name, by=number)

    def promote(self, number: int) -> Request:
        """The move of H to T."""
        silent = self.unlinked or self.verb is Verb.MKDIR
        frees = () if silent else (self.base.content if self.base else "",)
        return Request("update", self.staged, TARGET, promotes=frees, by=number)

    def in_flight(self, number: int) -> list[Request]:
        """The requests that are on their way."""
        sent = [self.set_aside(number)] if self.setting is Outcome.SENT else []
        return [*sent, self.promote(number)] if self.promoting is Outcome.SENT else sent

    def is_about_to_move(self, item: int) -> bool:
        """True between a fresh look at the item and its set-aside; or H was looked at (R6), and is promoted once more."""
        found = self.finding is not None and self.finding.fresh and self.finding.id == item
        return found or (self.staged == item and self.resent and not self.unsure)


class Disk(NamedTuple):
    """What survives a loss of power."""

    txs: tuple[Tx, ...] = ()
    tombs: frozenset[int] = frozenset()


class Mount(NamedTuple):
    """One mount: what its user will still do, its transactions, the ids of all its attempts to create."""

    todo: tuple[str, ...] = ()
    up: bool = True
    base: Base | None = None
    txs: tuple[Tx, ...] = ()
    tombs: frozenset[int] = frozenset()
    next_tid: int = 1
    disk: Disk = Disk()
    #: Items that it renamed while a request on them might still be carried out, as long as the process lives.
    renamed: frozenset[int] = frozenset()

    @property
    def synced(self) -> Disk:
        """The disk after a sync now."""
        return Disk(tuple(tx.recorded for tx in self.txs), self.tombs)

    @property
    def unsent(self) -> set[str]:
        """The contents that may be on this machine only."""
        return {tx.content for tx in self.txs if tx.local and tx.stage is not Stage.PLACED}

    def dead(self, txs: tuple[Tx, ...]) -> Mount:
        """The mount without its process; the unlink of an open file is not recorded."""
        waiting = tuple(tx.revived for tx in txs if tx.verb is not Verb.REMOVE)
        return self._replace(up=False, txs=waiting, todo=(), base=None, renamed=frozenset())


class World(NamedTuple):
    """Everything. `job`, `mishaps`: what may still happen."""

    items: tuple[Item, ...]
    mounts: tuple[Mount, ...]
    next_id: int = 2
    late: tuple[Request, ...] = ()
    job: tuple[str, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    owed: frozenset[str] = frozenset()
    #: Contents that the job has given another name: saving over T does not end that they are owed.
    claimed: frozenset[str] = frozenset()
    #: The content that T should have at rest: "" none, "?" either may be.
    expected: str = ""
    #: A request was carried out late: names may have flipped.
    flipped: bool = False

    @staticmethod
    def first(scenario: Scenario) -> World:
        """The state in which a scenario begins."""
        items = tuple(Item(number, name, content) for number, (name, content) in enumerate(scenario.there, 1))
        return World(
            items,
            tuple(Mount(todo) for todo in scenario.users),
            next_id=len(items) + 1,
            job=tuple(sorted(scenario.job)),
            mishaps=tuple(sorted(scenario.mishaps)),
            owed=frozenset(item.content for item in items),
            expected=next((item.content for item in items if item.name == TARGET), ""),
        )

    def item(self, item_id: int) -> Item | None:
        """The item of this id."""
        return next((item for item in self.items if item.id == item_id), None)

    @property
    def txs(self) -> list[Tx]:
        """The transactions of all mounts."""
        return [tx for mount in self.mounts for tx in mount.txs]

    def at(self, name: str) -> Item | None:
        """The item that is shown at this name."""
        return next((item for item in reversed(self.items) if item.name == name), None)

    def once_more(self, mishap: Mishap) -> World:
        """The world after one of these mishaps."""
        left = list(self.mishaps)
        left.remove(mishap)
        return self._replace(mishaps=tuple(left))

    def with_tx(self, number: int, index: int, tx: Tx | None) -> World:
        """The world with one transaction of a mount changed, or gone."""
        txs = list(self.mounts[number].txs)
        txs[index : index + 1] = [tx] if tx else []
        return self.with_mount(number, self.mounts[number]._replace(txs=tuple(txs)))

    def with_mount(self, number: int, mount: Mount) -> World:
        """The world with one mount changed."""
        mounts = list(self.mounts)
        mounts[number] = mount
        return self._replace(mounts=tuple(mounts))

    def with_item(self, item: Item) -> World:
        """The world with one item changed."""
        return self._replace(items=tuple(item if other.id == item.id else other for other in self.items))

    def without_item(self, item: Item) -> World:
        return self._replace(items=tuple(other for other in self.items if other.id != item.id))

    def with_new(self, name: str, content: str) -> World:
        """The world with one more item, the last."""
        item = Item(self.next_id, name, content)
        return self._replace(items=(*self.items, item), next_id=self.next_id + 1)

    def carry_out(self, request: Request, scenario: Scenario) -> tuple[World, Item | Outcome]:
        """What the server makes of a request: the world after it, and its answer."""
        there, before = self.at(request.name), self.item(request.id)
        if request.operation == "create":
            return self._create(request, there, scenario)
        if before is None:
            return self, Outcome.GONE
        if request.operation == "delete":
            return self.without_item(before), before
        world = self
        if there is not None and there.id != before.id and request.name != BESIDE:
            if not scenario.moves_replace:
                return self, Outcome.EXISTS
            world = self.without_item(there)
        item = before._replace(name=request.name, version=before.version + scenario.moves_touch)
        world = world.with_item(item)
        if request.promotes and before.name != request.name:
            owed = world.owed - (set(request.promotes) - world.claimed)
            world = world._replace(owed=owed, expected=item.content)
        return world, item

    def _create(
        self, request: Request, there: Item | None, scenario: Scenario
    ) -> tuple[World, Item | Outcome]:
        if there is None:
            world = self.with_new(request.name, request.content)
            expected = request.content if request.name == TARGET else world.expected
            return world._replace(expected=expected), world.items[-1]
        if not scenario.create_replaces:
            return self, Outcome.EXISTS
        item = there._replace(content=request.content, version=there.version + 1)
        return self.with_item(item), item

    def without_answers(self, number: int) -> World:
        """Nobody hears what becomes of the requests of a mount that are on their way."""
        sent = [request for tx in self.mounts[number].txs for request in tx.in_flight(number)]
        # R7: what a cancelled save has set aside waits then, and is kept beside T.
        waits = any(tx.gives_back and tx.asides for tx in self.mounts[number].txs)
        return self._replace(late=(*self.late, *sent), expected="?" if waits else self.expected)

    def crashed(self, number: int) -> World:
        """The process of a mount is killed: the journal stays."""
        world, mount = self.without_answers(number), self.mounts[number]
        return world.with_mount(number, mount.dead(mount.synced.txs))

    def wrong(self, at_rest: bool) -> str:
        """What must not be in this state, "" if nothing is."""
        kept = {item.content for item in self.items} | {tx.content for tx in self.txs if tx.local}
        if lost := self.owed - kept:
            return f"{', '.join(sorted(lost))} is lost"
        if sum(item.name == TARGET for item in self.items) > 1:
            return "two items stand at T"
        return self._wrong_at_rest() if at_rest else ""

    def _wrong_at_rest(self) -> str:
        if left := [item.name for item in self.items if item.hidden]:
            return f"{', '.join(left)} is left under a hidden name"
        if any(not tx.refused for tx in self.txs):
            return "a transaction never ends"
        if any(tx.local for tx in self.txs):
            return "a save has failed that nothing refused"
        there = self.at(TARGET)
        shown = there.content if there else ""
        if not self.flipped and self.expected not in ("?", shown):
            return f"T shows {shown or 'nothing'}, not {self.expected or 'nothing'}"
        return ""


class Run:
    """One scenario, `without` a rule or with all; `taken`, `verbs`, `fates`: what of the code's own was seen so far."""

    def __init__(self, scenario: Scenario, without: Rule = "") -> None:
        self.scenario = scenario
        self.without = without
        self.taken: set[tuple[Stage, Stage]] = set()
        self.verbs: set[Verb] = set()
        self.fates: set[Fate] = set()

    def moved(self, tx: Tx, stage: Stage) -> Tx:
        """The transaction at another stage, by an arrow that the code has too."""
        assert stage in TRANSITIONS[tx.stage], f"the code can't go from {tx.stage} to {stage}"
        self.taken.add((tx.stage, stage))
        return tx._replace(stage=stage)


# Everything that can happen is searched, nearest first.

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple):
    """Who does what, and what becomes of it; `outcome` is empty where nothing goes wrong. `sends`: a changing request."""

    actor: str
    act: str
    outcome: str = ""
    sends: Operation | Literal[""] = ""

    @property
    def optional(self) -> bool:
        """True for what may or may not happen: a state where nothing else is left is at rest."""
        return self.actor in ("job", "fate")

    def __str__(self) -> str:
        return f"{self.actor}: {self.act}" + (f" [{self.outcome}]" if self.outcome else "")


class Search(NamedTuple, Generic[S]):
    """What a search saw; `violation` is empty if no state was wrong, else `schedule` leads there."""

    states: int
    violation: str
    schedule: tuple[Step, ...]
    last: S

    def story(self) -> str:
        """The schedule, one step a line."""
        steps = "\n".join(f"  {number:2} {step}" for number, step in enumerate(self.schedule, 1))
        return f"{steps}\n  => {self.violation}"


def search(
    start: S, steps: Callable[[S], Iterable[tuple[Step, S]]], wrong: Callable[[S, bool], str], limit: int
) -> Search[S]:
    """Visits every state that can be reached from `start`, nearest first, until one is wrong.

    `wrong(state, at_rest)` says what is wrong with a state, "" if nothing.
    AssertionError after `limit` states: the scenario is too large to be searched whole.
    """
    came: dict[S, tuple[Step, S] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        following = list(steps(state))
        if what := wrong(state, all(step.optional for step, _ in following)):
            return Search(len(came), what, _way(came, state), state)
        for step, new in following:
            if new not in came:
                came[new] = (step, state)
                queue.append(new)
        assert len(came) <= limit, f"more than {limit} states"
    return Search(len(came), "", (), start)


def _way(came: dict[S, tuple[Step, S] | None], state: S) -> tuple[Step, ...]:
    way = []
    while (entry := came[state]) is not None:
        step, state = entry
        way.append(step)
    return tuple(reversed(way))

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
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from tests.support.interferences import Execution, of

from jobfs.state.records import TRANSITIONS, Stage, Verb

TARGET, SOURCE, ELSEWHERE, BESIDE = "T", "S", "x", "c"
NOT_FOUND, EXISTS = "404", "400"


class Fate(StrEnum):
    """What becomes of an item set aside: it is checked; or given back, where a rename was given up."""

    CHECK = "check"
    RETURN = "return"


#: Switches of save/protocol.md, The rules: without one a mount does what a simpler program would do. Where a rule says two
#: things, each has a switch of its own.
Rule = Literal[
    "r1", "r1_young", "r1_renamed", "r2", "r3", "r4", "r5", "r6", "r6_own", "r7_look", "r7_wait", "r7_sent", "r8", "r8_sent",
    "r9", "r10", "r10_ours", "r10_place", "r10_back", "r11", "r12", "r13_refuses", "r13_early", "r13_own", "r13_kept", "",
]  # fmt: skip


class Item(NamedTuple):
    """On the server. `version` is what `updatedAt` tells: another number after each change that it shows."""

    id: int
    name: str
    content: str
    version: int = 1


class Request(NamedTuple):
    """A changing request: create `content` at `name`, move or delete item `id`.

    `promotes`: the contents that are no longer owed once this move has brought new content to T.
    """

    op: str
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
    #: Set-aside and promote, one or both (R13) of them in flight: "sent", then the outcome that this process has not seen yet:
    #: "done", "refused", "gone" or "lost".
    setting: str = ""
    promoting: str = ""


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


class World(NamedTuple):
    """Everything. `job`, `kills`, `powers`, `losses`, `wipes`, `slow`, `queues`, `refusals`: what may still happen."""

    items: tuple[Item, ...]
    mounts: tuple[Mount, ...]
    next_id: int = 2
    late: tuple[Request, ...] = ()
    job: tuple[str, ...] = ()
    kills: int = 0
    powers: int = 0
    losses: int = 0
    wipes: int = 0
    slow: int = 0
    queues: int = 0
    refusals: int = 0
    owed: frozenset[str] = frozenset()
    #: Contents that the job has given another name: saving over T does not end that they are owed.
    claimed: frozenset[str] = frozenset()
    #: The content that T should have at rest: "" none, "?" either may be.
    expected: str = ""
    #: A request was carried out late: names may have flipped.
    flipped: bool = False

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


@dataclass(frozen=True)
class Scenario:
    """Which actors and faults take part; what is left out can't happen in it."""

    name: str
    #: For each mount, what its user does; of the job, names of the list (tests/support/interferences.py).
    users: tuple[tuple[str, ...], ...]
    job: tuple[str, ...] = ()
    there: tuple[tuple[str, str], ...] = ((TARGET, "o"),)
    kills: int = 0
    powers: int = 0
    #: How many answers may get lost, and whether the server carries their requests out.
    losses: int = 0
    lost: tuple[Execution, ...] = get_args(Execution)
    #: Requests that can lose their answers: parts of the names of steps.
    losing: tuple[str, ...] = ("",)
    #: Stage directories that may be lost for good.
    wipes: int = 0
    #: Uploads so long that a find answered before them is old.
    slow: int = 0
    #: How many requests that a look justifies may have to wait for their connection for so long that the look is old.
    queues: int = 0
    #: Times that the server refuses a rename, and all that would undo it.
    refusals: int = 0
    #: Whether a move changes `updatedAt`, and what a create at an existing path does: not promised by the API.
    moves_touch: bool = False
    #: The job writes so soon after what is there was written that `updatedAt` stays the same: every base is young.
    one_tick: bool = False
    create_replaces: bool = True
    #: The mounts know that it does not.
    known_to_reject: bool = False
    #: Answers to set-aside and promote take time: others act while a request is on its way, and before its answer is here.
    takes_time: bool = False
    #: A set-aside and its promote are sent together (R13), where the server refuses a move onto an item; else it replaces that.
    overlaps: bool = False
    moves_replace: bool = False

    def start(self) -> World:
        """The first state."""
        items = tuple(Item(number, name, content) for number, (name, content) in enumerate(self.there, 1))
        return World(
            items,
            tuple(Mount(todo) for todo in self.users),
            next_id=len(items) + 1,
            job=tuple(sorted(self.job)),
            kills=self.kills,
            powers=self.powers,
            losses=self.losses,
            wipes=self.wipes,
            slow=self.slow,
            queues=self.queues,
            refusals=self.refusals,
            owed=frozenset(item.content for item in items),
            expected=next((item.content for item in items if item.name == TARGET), ""),
        )


def hidden(name: str) -> bool:
    """True for a hidden name."""
    return name not in (TARGET, SOURCE, ELSEWHERE, BESIDE)


def hidden_name(mount: int, role: str, number: int) -> str:
    """A hidden name of a mount; roles: h staged, a aside."""
    return f"{mount}{role}{number}"


def moved_to(tx: Tx, stage: Stage, seen: set[tuple[Stage, Stage]]) -> Tx:
    """The transaction in another state, by an arrow that the code has too."""
    assert stage in TRANSITIONS[tx.stage], f"the code can't go from {tx.stage} to {stage}"
    seen.add((tx.stage, stage))
    return tx._replace(stage=stage)


def execute(world: World, request: Request, scenario: Scenario) -> tuple[World, Item | str]:
    """What the server makes of a request: the world after it, and its answer."""
    if request.op == "create":
        there = world.at(request.name)
        if there is not None:
            if not scenario.create_replaces:
                return world, EXISTS
            item = there._replace(content=request.content, version=there.version + 1)
            return _put(world, item), item
        item = Item(world.next_id, request.name, request.content)
        world = world._replace(items=(*world.items, item), next_id=world.next_id + 1)
        if request.name == TARGET:
            world = world._replace(expected=request.content)
        return world, item
    before = world.item(request.id)
    if before is None:
        return world, NOT_FOUND
    if request.op == "delete":
        return world._replace(items=tuple(item for item in world.items if item.id != before.id)), before
    there = world.at(request.name)
    if there is not None and there.id != before.id and request.name != BESIDE:
        if not scenario.moves_replace:
            return world, EXISTS
        world = world._replace(items=tuple(item for item in world.items if item.id != there.id))
    item = before._replace(name=request.name, version=before.version + scenario.moves_touch)
    world = _put(world, item)
    if request.promotes and before.name != request.name:
        world = world._replace(
            owed=world.owed - (set(request.promotes) - world.claimed), expected=item.content
        )
    return world, item


def _put(world: World, item: Item) -> World:
    return world._replace(items=tuple(item if other.id == item.id else other for other in world.items))


def wrong(world: World, at_rest: bool) -> str:
    """What must not be in this state, "" if nothing is."""
    on_server = {item.content for item in world.items}
    local = {tx.content for mount in world.mounts for tx in mount.txs if tx.local}
    if lost := world.owed - on_server - local:
        return f"{', '.join(sorted(lost))} is lost"
    if sum(item.name == TARGET for item in world.items) > 1:
        return "two items stand at T"
    return _wrong_at_rest(world) if at_rest else ""


def _wrong_at_rest(world: World) -> str:
    open_txs = [tx for mount in world.mounts for tx in mount.txs]
    if left := [item.name for item in world.items if hidden(item.name)]:
        return f"{', '.join(left)} is left under a hidden name"
    if any(not tx.refused for tx in open_txs):
        return "a transaction never ends"
    if any(tx.refused and tx.local for tx in open_txs):
        return "a save has failed that nothing refused"
    if gone := world.owed - {item.content for item in world.items}:
        return f"{', '.join(sorted(gone))} is nowhere to be seen"
    there = world.at(TARGET)
    shown = there.content if there else ""
    if not world.flipped and world.expected not in ("?", shown):
        return f"T shows {shown or 'nothing'}, not {world.expected or 'nothing'}"
    return ""


def recorded(tx: Tx) -> Tx:
    """What the journal holds of a transaction."""
    asides = tuple(aside._replace(verdict="") for aside in tx.asides)
    return Tx(*tx[:10], unlinked=tx.unlinked)._replace(asides=asides)


def written(mount: Mount) -> Disk:
    """The disk after a sync now."""
    return Disk(tuple(recorded(tx) for tx in mount.txs), mount.tombs)


def without_process(mount: Mount, txs: tuple[Tx, ...]) -> Mount:
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


def set_aside(tx: Tx, number: int) -> Request:
    """The move of the item that was found to its hidden name."""
    aside = aside_in_flight(tx)
    return Request("move", aside.id, aside.name, by=number)


def aside_in_flight(tx: Tx) -> Aside:
    """The item that the finding of the transaction names, as it is recorded."""
    return next(aside for aside in tx.asides if tx.finding is not None and aside.id == tx.finding.id)


def promote(tx: Tx, number: int) -> Request:
    """The move of H to T."""
    silent = tx.unlinked or tx.verb is Verb.MKDIR
    frees = () if silent else (tx.base.content if tx.base else "",)
    return Request("move", tx.staged, TARGET, promotes=frees, by=number)


def without_answers(world: World, number: int) -> World:
    """Nobody hears what becomes of the requests of a mount that are on their way."""
    sent = [set_aside(tx, number) for tx in world.mounts[number].txs if tx.setting == "sent"]
    sent += [promote(tx, number) for tx in world.mounts[number].txs if tx.promoting == "sent"]
    # R7: what a cancelled save has set aside waits then, and is kept beside T.
    waits = any(tx.gives_back and tx.asides for tx in world.mounts[number].txs)
    return world._replace(late=(*world.late, *sent), expected="?" if waits else world.expected)


def crash(world: World, number: int) -> World:
    """The process is killed: the journal stays."""
    world, mount = without_answers(world, number), world.mounts[number]
    return world.with_mount(number, without_process(mount, tuple(recorded(tx) for tx in mount.txs)))


#: There before: a file at T, and the source of a rename.
BOTH = ((TARGET, "o"), (SOURCE, "s"))
#: The requests that can be in flight, as parts of the names of steps.
MOVES = ("sets aside", "promotes")


def scenario(users: list[str], job: str = "", **more: Any) -> Scenario:
    """What the user of each mount does, one thing after another, and what the job may do, in any order."""
    return Scenario("", tuple(map(_acts, users)), _acts(job), **more)


def _acts(told: str) -> tuple[str, ...]:
    return tuple(told.split(", ")) if told else ()


_BY_NAME = {
    "a state directory is lost for good": scenario(["open, save u1"], kills=1, wipes=1),
    "a directory is made where the job creates one": scenario(
        ["mkdir d"], "creates again", there=(), kills=1
    ),
    "an open file is removed while the job replaces it": scenario(
        ["remove"], "writes, creates again", kills=1
    ),
    "an open file is removed, and its delete waits for a connection": scenario(
        ["remove"], "writes, creates again", queues=1
    ),
    "a rename over is refused, and so is all that would undo it": scenario(
        ["open, rename"], "creates again, writes", there=BOTH, kills=1, refusals=1
    ),
    "the job overwrites after a promote whose answer was lost": scenario(
        ["open, save u1, save u2"], "writes", losses=1, lost=("at once",), losing=("promotes",)
    ),
    "the job overwrites within one tick of the server's clock": scenario(
        ["open, save u1"], "writes, writes", kills=1, one_tick=True
    ),
    "the source of a rename over vanishes": scenario(
        ["open, rename"], "creates again, deletes S", there=BOTH, kills=1, losses=1
    ),
    "power is lost while an aside is deleted late": scenario(
        ["open, save u1"], "deletes, writes", powers=1, losses=1, lost=("late",), losing=("deletes",)
    ),
    "the job moves the target away during a long upload": scenario(
        ["open, save u1"], "creates again, moves away", slow=1
    ),
    "the job moves the target away while its set-aside waits for a connection": scenario(
        ["open, save u1"], "creates again, moves away", queues=1
    ),
    "truncated without a read, on a server where moves change updatedAt": scenario(
        ["truncate, save u1"], "writes, creates again", kills=1, moves_touch=True
    ),
    "a new file that the job creates too": scenario(
        ["save u1"], "creates again, writes", there=(), kills=1, losses=1
    ),
    "a new file straight at its name, on a server that rejects what exists": scenario(
        ["save u1, unlink"],
        "creates again, writes, deletes",
        there=(),
        kills=1,
        losses=1,
        losing=("creates", "promotes"),
        create_replaces=False,
        known_to_reject=True,
    ),
    "unlinked while it is saved": scenario(
        ["open, save u1, unlink"],
        "writes",
        kills=1,
        losses=1,
        losing=("creates", "sets aside", "promotes"),
    ),
    "a promote is carried out late, the job deletes and overwrites": scenario(
        ["open, save u1, save u2"], "deletes, writes", losses=1, lost=("late",), losing=("promotes",)
    ),
    "a save in place, a kill, a lost answer, the job overwrites and creates": scenario(
        ["open, save u1"], "creates again, writes", kills=1, losses=1
    ),
    "a save in place, a kill, the job deletes, creates and moves away": scenario(
        ["open, save u1"], "creates again, deletes, moves away", kills=1, slow=1
    ),
    "a promote is carried out late, when T has been moved away and is saved anew": scenario(
        ["save u1, move, open, save u2"], there=(), losses=1, lost=("late",), losing=("promotes",)
    ),
    "set-aside and promote overlap, on a server whose moves replace": scenario(
        ["open, save u1"], "writes", overlaps=True, moves_replace=True
    ),
    "set-aside and promote overlap, the job overwrites and creates": scenario(
        ["open, save u1"], "creates again, writes", kills=1, overlaps=True
    ),
    "set-aside and promote overlap, an answer is lost, the job moves away and creates": scenario(
        ["open, save u1"],
        "moves away, creates again",
        losses=1,
        overlaps=True,
        losing=("sets aside", "promotes"),
    ),
    "set-aside and promote overlap, two answers are lost, the job overwrites": scenario(
        ["open, save u1"], "writes", losses=2, overlaps=True, losing=("sets aside", "promotes")
    ),
    "set-aside and promote overlap, power is lost, the job overwrites": scenario(
        ["open, save u1"], "writes", powers=1, overlaps=True
    ),
    "set-aside and promote overlap, unlinked meanwhile": scenario(
        ["open, save u1, unlink"],
        "writes",
        kills=1,
        losses=1,
        overlaps=True,
        lost=("at once", "late"),
        losing=("sets aside", "promotes"),
    ),
    "set-aside and promote of a rename over overlap": scenario(
        ["open, rename"],
        "creates again, writes",
        there=BOTH,
        kills=1,
        losses=1,
        overlaps=True,
        losing=("sets aside", "promotes"),
    ),
    "set-aside and promote overlap in the second save, too": scenario(
        ["open, save u1, save u2"],
        "deletes, writes",
        losses=1,
        overlaps=True,
        lost=("late",),
        losing=("sets aside", "promotes"),
    ),
    "set-aside and promote of two mounts overlap": scenario(
        ["open, save u1", "open, save v1"], losses=1, overlaps=True, losing=("sets aside", "promotes")
    ),
    "answers take time, a kill, one is lost, the job overwrites and creates": scenario(
        ["open, save u1"], "creates again, writes", kills=1, losses=1, takes_time=True, losing=MOVES
    ),
    "answers take time, a kill, one is lost, the job moves away and creates": scenario(
        ["open, save u1"], "moves away, creates again", kills=1, losses=1, takes_time=True, losing=MOVES
    ),
    "answers take time, power is lost, unlinked, the job overwrites": scenario(
        ["open, save u1, unlink"], "writes", powers=1, takes_time=True
    ),
    "answers take time, unlinked, the job overwrites": scenario(
        ["open, save u1, unlink"], "writes", takes_time=True
    ),
    "answers take time, unlinked, the job moves away": scenario(
        ["open, save u1, unlink"], "moves away", takes_time=True
    ),
    "answers take time, a kill, one is lost, unlinked, the job moves away and overwrites": scenario(
        ["open, save u1, unlink"], "moves away, writes", kills=1, losses=1, takes_time=True, losing=MOVES
    ),
    "answers take time, one is lost, unlinked, the job creates and overwrites": scenario(
        ["open, save u1, unlink"], "creates again, writes", losses=1, takes_time=True, losing=MOVES
    ),
    "answers take time, one is lost, unlinked and saved again, the job overwrites and deletes": scenario(
        ["open, save u1, unlink, save u2"], "writes, deletes", losses=1, takes_time=True, losing=MOVES
    ),
    "answers to a rename over take time, a kill, one is lost": scenario(
        ["open, rename"],
        "creates again, writes",
        there=BOTH,
        kills=1,
        losses=1,
        takes_time=True,
        losing=MOVES,
    ),
    "answers to two mounts take time, one is lost": scenario(
        ["open, save u1", "open, save v1"], losses=1, takes_time=True, losing=MOVES
    ),
    "answers to two mounts take time, unlinked": scenario(
        ["open, save u1, unlink", "open, save v1"], takes_time=True
    ),
    "set-aside and promote overlap, an answer is lost, the job deletes and creates": scenario(
        ["open, save u1"],
        "deletes, creates again",
        kills=1,
        losses=1,
        overlaps=True,
        takes_time=True,
        losing=MOVES,
    ),
    "set-aside and promote overlap, unlinked, the job moves away and overwrites": scenario(
        ["open, save u1, unlink"],
        "moves away, writes",
        kills=1,
        losses=1,
        overlaps=True,
        takes_time=True,
        losing=MOVES,
    ),
    "set-aside and promote overlap, power is lost, unlinked, the job overwrites": scenario(
        ["open, save u1, unlink"], "writes", powers=1, overlaps=True, takes_time=True
    ),
    "set-aside and promote of two mounts overlap, unlinked": scenario(
        ["open, save u1, unlink", "open, save v1"], overlaps=True, takes_time=True
    ),
    "two mounts save one file, an answer is lost": scenario(
        ["open, save u1", "open, save v1"], losses=1, losing=("sets aside", "promotes")
    ),
    "two mounts save one file, a kill": scenario(["open, save u1", "open, save v1"], kills=1),
    "two mounts save one file, the job overwrites": scenario(["open, save u1", "open, save v1"], "writes"),
}
#: Each act of the job by itself, at every moment of a save.
_BY_NAME |= {
    f"a save in place, a kill, the job {act}": scenario(["open, save u1"], act.name, kills=1)
    for act in of("job")
    if act.name != "makes a second item"  # the model has one item at a name
}
SCENARIOS = [replace(each, name=name) for name, each in _BY_NAME.items()]


# Everything that can happen is searched, nearest first.

S = TypeVar("S", bound=Hashable)


class Step(NamedTuple):
    """Who does what, and what becomes of it; `outcome` is empty where nothing goes wrong."""

    actor: str
    act: str
    outcome: str = ""

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
    last: S | None

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
    return Search(len(came), "", (), None)


def _way(came: dict[S, tuple[Step, S] | None], state: S) -> tuple[Step, ...]:
    way = []
    while (entry := came[state]) is not None:
        step, state = entry
        way.append(step)
    return tuple(reversed(way))

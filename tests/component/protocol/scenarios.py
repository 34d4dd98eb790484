"""What takes part in each search of the model, and which search needs which rule of save/protocol.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from tests.support.interferences import Execution, of

#: The names of the model (model.py) but for hidden ones.
TARGET, SOURCE, ELSEWHERE, BESIDE = "T", "S", "x", "c"
#: Switches of save/protocol.md, The rules: without one a mount does what a simpler program would do. Where a rule says two
#: things, each has a switch of its own.
Rule = Literal[
    "r1", "r1_young", "r1_renamed", "r2", "r3", "r4", "r5", "r6", "r6_own", "r7_look", "r7_wait", "r7_sent", "r8", "r8_sent",
    "r9", "r10", "r10_ours", "r10_place", "r10_back", "r11", "r12", "r13_refuses", "r13_early", "r13_own", "r13_kept", "",
]  # fmt: skip
#: A death, a loss of power, an answer that is lost; a state directory that is lost for good; an upload so long that a find is old
#: after it; a request that waits for its connection until its look is old; a rename that the server refuses, with all that would
#: undo it.
Mishap = Literal["kill", "power", "loss", "wipe", "slow", "queue", "refusal"]


def hidden_name(mount: int, role: str, number: int) -> str:
    """A hidden name of a mount; roles: h staged, a aside."""
    return f"{mount}{role}{number}"


@dataclass(frozen=True)
class Scenario:
    """Which actors and mishaps take part; what is left out can't happen in it."""

    #: For each mount, what its user does; of the job, names of the list (tests/support/interferences.py).
    users: tuple[tuple[str, ...], ...]
    job: tuple[str, ...] = ()
    mishaps: tuple[Mishap, ...] = ()
    there: tuple[tuple[str, str], ...] = ((TARGET, "o"),)
    #: Requests that can lose their answers, by the names of steps, and whether the server carries them out.
    losing: tuple[str, ...] = ("",)
    lost: tuple[Execution, ...] = get_args(Execution)
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

    def __str__(self) -> str:
        """What happens in it, and how it differs from most."""
        others = Scenario(self.users, self.job, self.mishaps)
        odd = [f"{name}={value}" for name, value in vars(self).items() if value != getattr(others, name)]
        users, job = [", ".join(user) for user in self.users], [f"job {act}" for act in self.job]
        return "; ".join([*users, *job, *self.mishaps, *odd]).replace("=True", "")


def scenario(users: str, job: str = "", mishaps: str = "", **more: Any) -> Scenario:
    """What the user of each mount does, one thing after another, and what else may happen, in any order."""
    acts, some = [tuple(user.split(", ")) for user in users.split(" | ")], (job, mishaps)
    return Scenario(tuple(acts), *(tuple(each.split(", ")) if each else () for each in some), **more)  # type: ignore[arg-type]


#: There before: a file at T, and the source of a rename.
BOTH = ((TARGET, "o"), (SOURCE, "s"))
#: The requests that can be in flight.
MOVES = ("sets aside", "promotes")
ONCE, LATE = ("at once",), ("late",)
SAVE, TWICE, UNLINK, TWO = (
    "open, save u1",
    "open, save u1, save u2",
    "open, save u1, unlink",
    "open, save u1 | open, save v1",
)
RENAME = "open, rename"

LOST_PROMOTE = scenario(TWICE, "writes", "loss", lost=ONCE, losing=("promotes",))
MOVED_DURING_UPLOAD = scenario(SAVE, "creates again, moves away", "slow")
SOURCE_VANISHES = scenario(RENAME, "creates again, deletes S", "kill, loss", there=BOTH)
UNLINKED = scenario(UNLINK, "writes", "kill, loss", losing=("creates", *MOVES))
#: What each rule says, the switch that leaves it out, and a scenario that needs it. R12 has a model of its own.
RULES: dict[str, tuple[Rule, Scenario]] = {
    "R1: judge after the move, by content": ("r1", LOST_PROMOTE),
    "R1: a base that is young proves nothing by its updatedAt": (
        "r1_young", scenario(SAVE, "writes, writes", "kill", one_tick=True)),
    "R1: what was renamed while a request on it may be carried out is no base": (
        "r1_renamed", scenario("save u1, move, open, save u2", "", "loss", there=(), lost=LATE, losing=("promotes",))),
    "R2: what was placed here is told by its bytes": ("r2", LOST_PROMOTE),
    "R3: placed is synced before the first delete": (
        "r3", scenario(SAVE, "deletes, writes", "power, loss", lost=LATE, losing=("deletes",))),
    "R4: what no record names is exposed, never deleted": ("r4", scenario(SAVE, "", "kill, wipe")),
    "R5: promote's 400 is news": ("r5", MOVED_DURING_UPLOAD),
    "R6: a lost promote is judged by getting H": ("r6", SOURCE_VANISHES),
    "R6: only its own hidden name says that H was not promoted": ("r6_own", scenario(TWO, "", "loss", losing=MOVES)),
    "R7: look again before a delete": ("r7_look", scenario("remove", "writes, creates again", "kill")),
    "R7: wait for requests that went unanswered": (
        "r7_wait", scenario(TWICE, "deletes, writes", "loss", lost=LATE, losing=("promotes",))),
    "R7: a delete that had to wait for its connection needs another look": (
        "r7_sent", scenario("remove", "writes, creates again", "queue")),
    "R8: the find that names A is fresh": ("r8", MOVED_DURING_UPLOAD),
    "R8: it is fresh when the set-aside is sent": ("r8_sent", scenario(SAVE, "creates again, moves away", "queue")),
    "R9: new files are created hidden": ("r9", scenario("save u1", "creates again, writes", "kill, loss", there=())),
    "R10: unlink is recorded before it returns": ("r10", UNLINKED),
    "R10: a cancelled save takes back only what is its own": ("r10_ours", UNLINKED),
    "R10: elsewhere than at T, what has the bytes of H is somebody else's": (
        "r10_place", scenario(UNLINK, "moves away", takes_time=True)),
    "R10: where H was not placed, what was set aside goes back": ("r10_back", scenario(UNLINK, "writes", takes_time=True)),
    "R11: undo begins with the newest aside": ("r11", SOURCE_VANISHES),
    "R13: only where a move onto an item was seen to be refused": (
        "r13_refuses", scenario(SAVE, "writes", overlaps=True, moves_replace=True)),
    "R13: a refused promote came too early, and says no more": (
        "r13_early", scenario(SAVE, "creates again, writes", "kill", overlaps=True)),
    "R13: promote's own answer alone says whether H is at T": ("r13_own", scenario(SAVE, "writes", "power", overlaps=True)),
    "R13: an aside whose set-aside was not answered stays in the journal": (
        "r13_kept", scenario(SAVE, "deletes, creates again", "kill, loss", overlaps=True, takes_time=True, losing=MOVES)),
}  # fmt: skip

SCENARIOS = [
    *dict.fromkeys(each for _, each in RULES.values()),
    scenario("mkdir d", "creates again", "kill", there=()),
    scenario(RENAME, "creates again, writes", "kill, refusal", there=BOTH),
    scenario("truncate, save u1", "writes, creates again", "kill", moves_touch=True),
    scenario(
        "save u1, unlink", "creates again, writes, deletes", "kill, loss",
        there=(), losing=("creates", "promotes"), create_replaces=False, known_to_reject=True,
    ),
    scenario(SAVE, "creates again, writes", "kill, loss"),
    scenario(SAVE, "creates again, deletes, moves away", "kill, slow"),
    scenario(TWO, "", "kill"),
    scenario(TWO, "writes"),
    # Set-aside and promote overlap.
    scenario(SAVE, "moves away, creates again", "loss", overlaps=True, losing=MOVES),
    scenario(SAVE, "writes", "loss, loss", overlaps=True, losing=MOVES),
    scenario(UNLINK, "writes", "kill, loss", overlaps=True, lost=(*ONCE, *LATE), losing=MOVES),
    scenario(RENAME, "creates again, writes", "kill, loss", there=BOTH, overlaps=True, losing=MOVES),
    scenario(TWICE, "deletes, writes", "loss", overlaps=True, lost=LATE, losing=MOVES),
    scenario(TWO, "", "loss", overlaps=True, losing=MOVES),
    # Others act while a request is on its way.
    scenario(SAVE, "creates again, writes", "kill, loss", takes_time=True, losing=MOVES),
    scenario(SAVE, "moves away, creates again", "kill, loss", takes_time=True, losing=MOVES),
    scenario(UNLINK, "writes", "power", takes_time=True),
    scenario(UNLINK, "moves away, writes", "kill, loss", takes_time=True, losing=MOVES),
    scenario(UNLINK, "creates again, writes", "loss", takes_time=True, losing=MOVES),
    scenario(UNLINK + ", save u2", "writes, deletes", "loss", takes_time=True, losing=MOVES),
    scenario(RENAME, "creates again, writes", "kill, loss", there=BOTH, takes_time=True, losing=MOVES),
    scenario(TWO, "", "loss", takes_time=True, losing=MOVES),
    scenario("open, save u1, unlink | open, save v1", takes_time=True),
    # Both.
    scenario(UNLINK, "moves away, writes", "kill, loss", overlaps=True, takes_time=True, losing=MOVES),
    scenario(UNLINK, "writes", "power", overlaps=True, takes_time=True),
    scenario("open, save u1, unlink | open, save v1", overlaps=True, takes_time=True),
    # Each act of the job by itself, at every moment of a save. Some can be seen only where a move changes `updatedAt`.
    *(
        scenario(SAVE, act.name, "kill", moves_touch=act.name == "moves away and back")
        for act in of("job")
        if act.name != "makes a second item"  # the model has one item at a name
    ),
]  # fmt: skip

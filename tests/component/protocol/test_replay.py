"""Schedules that break the protocol without one of its rules are played on the real mount with all rules: they end well.

A schedule of the model becomes cues at the mount's requests, deaths, lost and late answers, a real job. A step of the job or of
fate has its place between two requests. Where the mount changes something next, and only looked since its last change, the cue is
right before that request; else right after the last one; and at rest or dead, where it changes nothing any more. `Script` waits
for its cues in order, and all must come, but for those of `NEVER`. `journal lost` is the journal as of its last sync
(tests/support/hosts.py), and the local bytes that were not synced are gone with it; a long upload is begun late.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.component.protocol.model import (
    BESIDE,
    ELSEWHERE,
    SCENARIOS,
    SOURCE,
    TARGET,
    Scenario,
    Search,
    Step,
    World,
    search,
    wrong,
)
from tests.component.protocol.protocol import Protocol
from tests.component.protocol.test_model import RULES, violating
from tests.support.boundaries import Boundaries, Death, Mortal
from tests.support.hosts import Host
from tests.support.interferences import FAULTS, Scene, named
from tests.support.judge import Judge, State
from tests.support.serverside import found_on
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, check_shown

from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.names import Role, hidden_path, new_transaction_id
from jobfs.nodes import Kind

#: What a step of the model is in requests of the client.
_CHANGES = {
    "creates": "create_file", "sets": "update", "promotes": "update", "gives": "update", "keeps": "update",
    "shows": "update", "deletes": "delete", "takes an": "delete", "discards": "delete",
}  # fmt: skip
#: Those of them that need no look; of a rename over, the promote does.
_WITHOUT_A_LOOK = ("creates", "promotes")
_USER = ("opens", "truncates", "saves", "renames", "moves", "makes", "unlinks", "hides")
#: One request, too.
_MOVES = "moves T away"
#: For each outcome of a request without an answer, the act of the network.
_LOST = {
    fault.execution: fault.name for fault in reversed(FAULTS) if fault.answer == "none" and not fault.like
}
_OPERATIONS = {"create_file": "create"}
#: The acts of the machine after which the mount is dead.
_DEATHS = ("kills the mount", "cuts the power")


class Cue(NamedTuple):
    """At the `nth` time of `boundary` in this life, or later: `what` happens."""

    boundary: str
    nth: int
    what: str


@dataclass
class Life:
    """From a mount to its end: what its user and the job do in order, what happens at cues and after it, and how it ends."""

    program: list[str] = field(default_factory=list)
    cues: deque[Cue] = field(default_factory=deque)
    after: list[str] = field(default_factory=list)
    wiped: bool = False

    @property
    def loses_power(self) -> bool:
        return "cuts the power" in [*(cue.what for cue in self.cues), *self.after]


def lives(schedule: Search[World]) -> list[Life]:
    """The schedule as programs and cues, a life for each time that the mount came back; then the rest of its user's acts."""
    steps, ends = list(schedule.schedule), not schedule.violation
    assert schedule.last is not None
    cuts = [0, *(number for number, step in enumerate(steps) if step.act == "comes back"), len(steps)]
    never = {step.act.split()[0] for step in steps if step.act.endswith("never carried out")}
    found = [_Translator(steps[first:last], never, ends).life for first, last in pairwise(cuts)]
    for act in schedule.last.mounts[0].todo:
        if act == "move":
            found[-1].program.append(_MOVES)
        elif act.startswith("save "):
            _append(found[-1].program, act.replace("save ", "saves "))
    return found


def _append(program: list[str], act: str) -> None:
    """One more thing that the user does; what is saved first, or under a name that is free again, is opened before."""
    if act.startswith("saves") and (not program or program[-1] == _MOVES):
        program.append("opens T")
    program.append(act)


def changes(act: str) -> str:
    """The changing request that a step of the mount sends, or ""."""
    return next((request for start, request in _CHANGES.items() if act.startswith(start)), "")


class _Translator:
    def __init__(self, steps: list[Step], never: set[str], ends: bool) -> None:
        """`ends`: the schedule leads to a state at rest, so that no request follows but those that are in it."""
        self.life = Life()
        self._ends = ends
        self._steps = steps
        self._never = never
        self._sent: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        #: Where the last request that changed something has ended; whether the mount has only looked since then.
        self._last = ""
        self._looked = False
        #: The time of the request that waits for its connection, 0 if none does: what happens now is in its wait.
        self._waits = 0
        for number, step in enumerate(steps):
            self._translate(number, step)

    def _translate(self, number: int, step: Step) -> None:
        if step.actor in ("job", "net", "fate"):
            self._around(number, step)
            return
        self._waits = 0
        if step.act.startswith(_USER):
            self._user(number, step)
        elif request := changes(step.act):
            self._request(step, request)
        elif step.act.startswith(("syncs", "frees")):
            self._last = ""
        elif step.act != "comes back":
            self._looked = True

    def _user(self, number: int, step: Step) -> None:
        if step.act.startswith("unlinks"):
            self._cue(number, "user unlinks")
            return
        self._looked = False
        _append(self.life.program, step.act)
        if step.act == _MOVES:
            self._sent["update"] += 1
            self._last = "after update"
            self._ended[self._last] += 1

    def _request(self, step: Step, request: str) -> None:
        self._sent[request] += 1
        self._sent["turn"] += not step.act.startswith(_WITHOUT_A_LOOK)
        count = self._sent[request]
        killed, _, _ = step.outcome.partition(",")
        if step.outcome in _LOST:
            never = step.outcome == "late" and "move" in self._never
            fault, on = _LOST["never" if never else step.outcome], _OPERATIONS.get(request, request)
            self.life.cues.append(Cue(f"before {request}", count, f"fault {on} {fault}"))
        elif killed.startswith("killed"):
            boundary = f"{'after' if killed.endswith('after') else 'before'} {request}"
            self.life.cues.append(Cue(boundary, count, "kills the mount"))
        self._last = f"{'failed' if step.outcome else 'after'} {request}"
        self._ended[self._last] += 1
        self._looked = False

    def _around(self, number: int, step: Step) -> None:
        what = f"{step.actor} {step.act}"
        if step.act.startswith("loses the state directory"):
            self.life.wiped = True
        elif step.act.endswith("never carried out") or step.act.startswith("syncs"):
            return
        elif step.act.startswith("makes the upload"):
            self.life.cues.append(
                Cue("before create_file", self._sent["create_file"] + 1, "fault create is slow")
            )
        elif step.act.startswith("makes a request"):
            self._waits = self._sent["turn"] + 1
            self._cue(number, what)
        elif step.act.startswith(_DEATHS):
            self._cue(number, step.act.partition(",")[0])
        elif step.act.endswith("late"):
            self._cue(number, "net carries out what is late")
        elif not self._last and not self._looked and not self._sent:
            self._before_program(what)
        else:
            self._cue(number, what)

    def _before_program(self, what: str) -> None:
        """Nothing was sent yet: the job acts before the save or rename is called, after the open."""
        at = len(self.life.program)
        if not at and self._opens_a_new_file():
            self.life.program.append("opens T")
            at = 1
        if at and self.life.program[-1].startswith(("saves", "renames")):
            at -= 1
        self.life.program.insert(at, what)

    def _opens_a_new_file(self) -> bool:
        """What is saved first was opened when nothing was there."""
        first = next((step.act for step in self._steps if step.act.startswith(_USER)), "")
        return first.startswith("saves")

    def _cue(self, number: int, what: str) -> None:
        following = next(
            (r for step in self._steps[number + 1 :] if step.actor == "one" and (r := changes(step.act))), ""
        )
        dead = any(cue.what in _DEATHS for cue in self.life.cues)
        if dead or self.life.after or (self._ends and not self._last and not following):
            self.life.after.append(what)
            return
        if self._waits:
            cue = Cue("before turn", self._waits, what)
        elif self._last and not (self._looked and following):
            cue = Cue(self._last, self._ended[self._last], what)
        else:
            request = following or ("delete" if self._sent else "create_file")
            cue = Cue(f"before {request}", self._sent[request] + 1, what)
        self.life.cues.append(cue)


PATHS = {TARGET: "dir/file.txt", SOURCE: "dir/draft.txt", ELSEWHERE: "dir/elsewhere.txt"}
#: Seconds until a late request is carried out, and how long the mounts wait for such requests.
LATE, LIFETIME = 0.4, 1.4

#: All but what needs two mounts (tests/component/test_save_unanswered.py), a delete by version that waits (the real mount may
#: have all bytes of an open file, and delete it by its name: tests/unit/save/test_items.py), and requests that are in flight
#: (tests/component/test_save_overlap.py, tests/component/test_files_in_use.py).
REPLAYED = [
    rule
    for rule, (switch, _) in RULES.items()
    if switch not in ("r6_own", "r7_sent", "r10_place", "r10_back") and not switch.startswith("r13")
]

#: Acts of the job of which the model says too little for a real mount: contents of two writers, permissions, directories.
_ONLY_IN_THE_MODEL = {
    "appends",
    "protects",
    "deletes the directory",
    "deletes the directory and makes another",
}
#: Those of one mount with a file at T.
PLAYABLE = [
    each
    for each in SCENARIOS
    if len(each.users) == 1
    and each.users[0][0] != "mkdir d"
    and not (each.queues and "remove" in each.users[0])
    and not (each.overlaps or each.takes_time or _ONLY_IN_THE_MODEL & {*each.job})
]


def content(token: str) -> bytes:
    """Contents differ in their bytes only."""
    return f"content {token:8}".encode()


def is_by_job(state: State) -> bool:
    return isinstance(state, bytes) and state.startswith(b"content j")


def walk(protocol: Protocol, random: Random) -> Search[World]:
    """A random schedule to a state at rest; what can go wrong does so more often than not."""
    world = protocol.scenario.start()
    way: list[Step] = []
    while True:
        steps = list(protocol.steps(world))
        if all(step.optional for step, _ in steps) and (not steps or random.random() < 0.5):
            return Search(len(way), "", tuple(way), world)
        odd = [(step, after) for step, after in steps if step.optional or step.outcome]
        step, world = random.choice(odd if odd and random.random() < 0.35 else steps)
        way.append(step)


#: The name and the content of each item.
Outcome = tuple[tuple[str, str], ...]


@cache
def outcomes(scenario: Scenario, left: tuple[str, ...]) -> set[Outcome]:
    """The ends that the model with all rules allows, if the job has only `left` still to do."""
    ends: set[Outcome] = set()

    def note(world: World, at_rest: bool) -> str:
        if at_rest and world.job == left:
            ends.add(tuple(sorted((item.name, item.content) for item in world.items)))
        return wrong(world, at_rest)

    search(scenario.start(), Protocol(scenario).steps, note, 60_000)
    return ends


class Script(Boundaries):
    """Boundaries that have cues: each is acted on once, in order."""

    failures = turns = True

    def __init__(self, life: Life, play: Play) -> None:
        super().__init__()
        self.cues = life.cues
        self._play = play
        self._counts: dict[str, int] = {}
        self._cueing = threading.RLock()
        self._looked = threading.Condition()
        self._looking: set[int] = set()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The job does nothing between a look and its delete, unless a cue says so.

        The API has no "delete if unchanged": what comes in that round trip is lost with every client.
        """
        with self._looked:
            self._looked.wait_for(lambda: not self._looking, timeout=1.0)
            yield

    def _note(self, name: str) -> None:
        with self._looked:
            if name == "before get":
                self._looking.add(threading.get_ident())
            elif name not in ("after get", "before turn", "before delete"):
                self._looking.discard(threading.get_ident())
                self._looked.notify_all()

    def reach(self, name: str) -> None:
        self._note(name)
        if self.dead and name != "before download":
            raise Death(name)
        if self.dead or not self._armed:
            return
        due: list[Cue] = []
        with self._cueing:
            self._counts[name] = count = self._counts.get(name, 0) + 1
            self.passed.append(name)
            while self.cues and self.cues[0].boundary == name and self.cues[0].nth <= count:
                due.append(self.cues.popleft())
        for cue in due:
            self._play.done.append(f"[{name}]")
            self.strike(cue.what)

    def strike(self, what: str) -> None:
        """It happens. Raises Death if the mount dies of it."""
        if what in _DEATHS:
            self._play.done.append(what)
            named("machine", what).act(Scene("", self._play.server.store, host=self._play.host))
            self.struck = True
            raise Death(what)
        self._play.act(what)


class Play:
    """One schedule against the local server."""

    def __init__(
        self, server: Server, home: Path, scenario: Scenario, schedule: Search[World], never: str = ""
    ) -> None:
        """`never`: a boundary to which the real mount comes once, sooner or later, and not where the schedule comes to it."""
        self.server, self.home, self.scenario = server, home, scenario
        self.job = list(scenario.start().job)
        self.done: list[str] = []
        self.lives = lives(schedule)
        last = self.lives[-1]
        last.cues = deque(cue._replace(nth=2) if cue.boundary == never else cue for cue in last.cues)
        self.never = [cue for cue in last.cues if cue.boundary == never]
        self.patience = 3 if never else 1
        self._fh: int | None = None
        self._renaming = self._refusing = self._waits = False
        self._syncs = not any(step.act.startswith("unlinks") for step in schedule.schedule)
        self.owed: set[State] = set()
        server.store.seed({"dir": None})
        for name, token in scenario.there:
            server.store.seed({PATHS[name]: content(token)}, age=0 if scenario.one_tick else 60)
        server.set(
            move_touches="item" if scenario.moves_touch else "no",
            updated_resolution="seconds" if scenario.one_tick else "milliseconds",
            create_existing="overwrite" if scenario.create_replaces else "reject",
        )

    def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every life in turn; the last one comes to rest."""
        mounts: list[str] = []
        for number, life in enumerate(self.lives):
            last = number == len(self.lives) - 1
            script = Script(life, self)
            # The job's changes are seen when the schedule says so, not because a machine is slow; nor is a late request later.
            lifetime = self.patience * LIFETIME
            work = self.work = Mortal(self.server, self.home, script, request_lifetime=lifetime, ttl=60)
            script.arm()
            work.start()
            if self.scenario.known_to_reject:
                work.write_back.context.server.learn(rejects=dict.fromkeys(Kind, True))
            self.host = Host(work, "gone" if life.loses_power else None)
            try:
                for mount in mounts:
                    # As `jobfs recover --of` does for a state directory that is lost for good.
                    work.vfs.refresh()
                    work.vfs.expose_hidden_items(mount)
                work.work(lambda life=life, script=script: self._program(life, script))  # type: ignore[misc]
                self.done.append("[at rest]")
                left = [*script.cues]
                assert left == (self.never if last else []), (
                    f"never reached: {script.cues} in {script.passed}"
                )
                with suppress(Death):
                    for what in [*(cue.what for cue in left), *life.after]:
                        script.strike(what)
                if last:
                    work.settle()
                    self._check(work)
                mounts = [work.mount_id] if life.wiped else []
            finally:
                script.dead = script.dead or not last
                work.end()
            if life.wiped:
                named("machine", "loses the state directory").act(
                    Scene("", self.server.store, host=self.host)
                )
                self.owed = set(filter(is_by_job, self.owed))
            self.host.restart(monkeypatch)

    def _program(self, life: Life, script: Script) -> None:
        for act in life.program:
            if act.startswith("job"):
                with script.apart():
                    self.act(act)
            else:
                self.act(act)
        if life.wiped or self._fh is not None:
            self._let_go()

    def _let_go(self) -> None:
        if self._fh is not None:
            fh, self._fh = self._fh, None
            with suppress(JobfsError):
                self.work.vfs.flush(fh)
                self.work.vfs.release(fh)

    def act(self, what: str) -> None:
        """One thing happens."""
        self.done.append(what)
        first, _, rest = what.partition(" ")
        if first == "job":
            self._job(rest)
        elif first == "fault":
            on, fault = rest.split(maxsplit=1)
            delay = 0.2 if fault == "is slow" else self.patience * LATE
            strike = partial(self.server.faults.fail_next, on=on, delay=delay)
            named("network", fault).act(Scene("", self.server.store, fault=strike))
        elif what.startswith("fate makes a request"):
            # It waits for its connection until its look is old.
            self._waits = True
            time.sleep(4 * max(0.05, self.work.write_back.client.health.latency or 0.0))
        elif what == "fate gives the rename up":
            self._refuses(self._renaming)
        elif first == "net":
            eventually(lambda: all(e.ms is not None for e in self.server.log.entries() if e.fault == "late"))
        else:
            self._user(what)

    def _refuses(self, everything: bool) -> None:
        """From now on the server refuses all requests, or none any more."""
        if everything:
            refuse = partial(self.server.faults.set_rate, rate=1.0)
            named("server", "refuses everything").act(Scene("", self.server.store, fault=refuse))
        elif self._refusing:
            self.server.faults.clear()
        self._refusing = everything

    def _job(self, act: str) -> None:
        path, made = PATHS[SOURCE if act.endswith(" S") else TARGET], content(f"j{len(self.job)}")
        if self.server.store.exists(path) is (act == "creates again"):
            # The real mount is elsewhere by now: the job finds nothing to do.
            return
        scene = Scene(path, self.server.store, lambda before: made, PATHS[ELSEWHERE])
        effects = named("job", act.removesuffix(" S")).play(scene)
        moved = {effect.after for effect in effects if effect.path == scene.elsewhere}
        for effect in effects:
            # A job that overwrites or deletes the item has seen it.
            self.owed = self.owed - ({effect.before} - moved) | {made} & {effect.after}
        # Not between a fresh look and its set-aside: that it has another name now is seen.
        self.owed |= moved if self._waits else set()
        self.job.remove(act)

    def _gone(self, path: str) -> None:
        """A user who saves over the item, or removes it, has seen it."""
        if self.server.store.exists(path):
            self.owed.discard(self.server.store.read(path))

    def _user(self, act: str) -> None:
        vfs, path = self.work.vfs, PATHS[TARGET]
        if act in ("opens T", "truncates T"):
            self._gone(path)
        if act == "opens T":
            if self.work.exists(path):
                self.work.read(path)
                self._fh = vfs.open(path, os.O_RDWR).fh
            else:
                self._fh = vfs.create(path, 0o644, os.O_RDWR | os.O_CREAT, CALLER).fh
        elif act == "truncates T":
            self._fh = vfs.open(path, os.O_WRONLY | os.O_TRUNC).fh
        elif act.startswith("saves"):
            self._save(act.split()[1])
        elif act == "renames S over T":
            self._let_go()
            self._renaming = True
            with suppress(JobfsError):
                vfs.rename(PATHS[SOURCE], path)
            self._renaming = False
            self._refuses(False)
        elif act == "moves T away":
            self._let_go()
            vfs.rename(path, PATHS[ELSEWHERE])
        elif act == "user unlinks":
            vfs.unlink(path)
            self.owed.clear()
        else:
            assert act == "hides T, which is open"
            self._fh = vfs.open(path, os.O_RDONLY).fh
            self._gone(path)
            vfs.unlink(path)

    def _save(self, token: str) -> None:
        vfs = self.work.vfs
        assert self._fh is not None
        self.owed = {*filter(is_by_job, self.owed), content(token)}
        vfs.ftruncate(self._fh, 0)
        vfs.write(self._fh, content(token), 0)
        if self._syncs:
            vfs.fsync(self._fh)
        else:
            self._let_go()

    def _check(self, work: Mortal) -> None:
        found, ends = found_on(self.server), outcomes(self.scenario, tuple(self.job))
        wrong = [self._judge(end).violations(found) for end in ends]
        assert [] in wrong, f"{self.done}, {work.boundaries.passed}: {found}, not in {ends}: {wrong}"
        # The job's last change is seen once the mount looks again.
        work.vfs.refresh()
        check_shown(work)

    def _judge(self, end: Outcome) -> Judge:
        judge = Judge({"dir": None})
        for name, token in end:
            if name == BESIDE:
                judge.displace(PATHS[TARGET], content(token))
            else:
                judge.put(PATHS[name], content(token))
        for state in self.owed:
            judge.owe(PATHS[TARGET], state)
        return judge


#: The real mount has the rule: it waits, sees the item at T again, and deletes only what was there before the first save.
NEVER = {"R7: wait for requests that went unanswered": "before delete"}


@pytest.mark.parametrize("rule", REPLAYED)
def test_a_schedule_that_fails_without_a_rule_succeeds_on_the_real_mount(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """save/protocol.md: the model's schedules against the real code."""
    scenario, found = violating(rule)
    play = Play(server, tmp_path / "home", scenario, found, NEVER.get(rule, ""))
    play.run(monkeypatch)
    print(f"{rule}\n{found.story()}\nplayed: {play.done}")


@pytest.mark.parametrize("scenario", PLAYABLE, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("seed", range(2))
def test_the_real_mount_ends_as_the_model_does_on_random_schedules(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario, seed: int
) -> None:
    """save/protocol.md: a random way through the model, with all rules; the real mount comes to one of its ends."""
    found = walk(Protocol(scenario), Random(seed))
    play = Play(server, tmp_path / "home", scenario, found)
    play.run(monkeypatch)
    print(f"{found.story()}\nplayed: {play.done}")


#: What goes wrong behind the mount's back once all is at rest.
WRONG: dict[str, Callable[[Server], object]] = {
    "a loss": lambda server: server.store.delete(PATHS[TARGET]),
    "an older version": lambda server: server.store.write(PATHS[TARGET], content("u1")),
    "a second version": lambda server: server.store.seed(
        {"dir/file.conflict-20261130T042204Z.txt": content("u1")}
    ),
    "a hidden item": lambda server: server.store.seed(
        {hidden_path(PATHS[TARGET], "a" * 12, new_transaction_id(), Role.STAGED): content("u1")}
    ),
}


@pytest.mark.parametrize("wrong", [*WRONG, "a cue that never comes"])
def test_the_replay_notices_a_wrong_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    (scenario,) = (each for each in PLAYABLE if each.name.startswith("a promote is carried out late, when"))
    play = Play(server, tmp_path / "home", scenario, walk(Protocol(scenario), Random(5)))
    if wrong in WRONG:
        check = play._check
        monkeypatch.setattr(play, "_check", lambda work: (WRONG[wrong](server), check(work)))
    else:
        play.lives[-1].cues.append(Cue("before update", 99, "job writes"))
    with pytest.raises(AssertionError, match=None if wrong in WRONG else "never reached"):
        play.run(monkeypatch)

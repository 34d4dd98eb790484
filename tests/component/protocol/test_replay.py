"""Schedules that break the protocol without one of its rules are played on the real mount with all rules: they end well.

A schedule of the model becomes cues at the mount's requests, deaths, lost and late answers, a real job. `Script` waits for its
cues in order, and all must come, but for those of `NEVER`. `journal lost` is the journal as of its last sync
(tests/support/hosts.py), and the local bytes that were not synced are gone with it; a long upload is begun late.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.support.boundaries import Boundaries, Mortal
from tests.support.hosts import Host
from tests.support.interferences import FAULTS, Interference, Scene, named
from tests.support.judge import Judge, State
from tests.support.serverside import found_on
from tests.support.waiting import eventually
from tests.support.workspaces import CALLER, check_shown

from jobfs.emulator import Server
from jobfs.errors import JobfsError
from jobfs.names import Role, hidden_path, new_transaction_id
from jobfs.nodes import Kind

from .model import Search, Step, World, search
from .protocol import Protocol
from .scenarios import BESIDE, ELSEWHERE, RULES, SCENARIOS, SOURCE, TARGET, Scenario

#: For each outcome of a request without an answer, the act of the network.
_LOST: dict[str, Interference] = {
    fault.execution: fault for fault in reversed(FAULTS) if fault.answer == "none" and not fault.like
}
#: The acts of the machine after which the mount is dead.
_DEATHS = ("kills the mount", "cuts the power")
USER = "user of one"


class Cue(NamedTuple):
    """At the `nth` time of `boundary` in this life, or later: this step happens."""

    boundary: str
    nth: int
    step: Step


class Life:
    """From a mount to its end: what its user and the job do in order, what happens at cues, and what when it is at rest or dead.

    A step of the job or of fate has its place between two requests. Where the mount changes something next, and only looked since
    its last change, the cue is right before that request; else right after the last one.
    """

    def __init__(self, steps: list[Step], is_whole: bool) -> None:
        """`is_whole`: the schedule leads to a state at rest: no request follows but those that are in it."""
        self.program: list[Step] = []
        self.cues: deque[Cue] = deque()
        self.after: list[Step] = []
        self._steps = steps
        self._is_whole = is_whole
        self._count: Counter[str] = Counter()
        #: Where the last request that changed something has ended; whether the mount has only looked since then.
        self._last, self._looked = "", False
        #: What happens now is in the wait of a request for its connection.
        self._waits = False
        users = [step.act for step in steps if step.actor == USER]
        if users and users[0].startswith("save"):
            self.program = [Step(USER, "open")]  # when nothing was there
        for number, step in enumerate(steps):
            self._waits = self._waits and step.actor not in ("one", USER)
            if step.actor == "one":
                self._mount_acts(step)
            elif step.actor == USER and step.act != "unlink":
                self._user_acts(step)
            elif not _is_silent(step):
                following = filter(None, map(_request, steps[number:]))
                self._happens(step, next(following, ""))

    def has(self, act: str) -> bool:
        """Return whether the machine does this."""
        return any(step.act.startswith(act) for step in self._steps)

    def _user_acts(self, step: Step) -> None:
        self.program.append(step)
        self._looked = False
        if step.act == "move":
            self._pass("update", "after")

    def _mount_acts(self, step: Step) -> None:
        request = _request(step)
        if step.act.startswith(("syncs", "frees")):
            self._last = ""
        elif not request:
            self._looked = self._looked or step.act != "comes back"
        else:
            if step.outcome in _LOST or is_death(step):
                when = "after" if step.outcome == "killed after" else "before"
                self.cues.append(self._next(f"{when} {request}", step))
            self._count["before turn"] += not step.act.startswith(
                ("creates", "promotes")
            )  # they need no look
            self._pass(request, "failed" if step.outcome else "after")

    def _pass(self, request: str, end: str) -> None:
        self._last, self._looked = f"{end} {request}", False
        self._count.update((f"before {request}", self._last))

    def _next(self, boundary: str, step: Step) -> Cue:
        return Cue(boundary, self._count[boundary] + 1, step)

    def _happens(self, step: Step, following: str) -> None:
        self._waits = self._waits or step.act.startswith("makes a request")
        if step.actor == "job" and self._is_first():
            # Before the save or rename is called, after the open.
            begun = self.program and self.program[-1].act.startswith(("save", "rename"))
            self.program.insert(len(self.program) - bool(begun), step)
        elif self._is_over(following):
            self.after.append(step)
        else:
            self.cues.append(self._cue(step, following))

    def _is_first(self) -> bool:
        """Return whether the mount has done nothing yet."""
        return not (self._last or self._looked or self._count or self._waits)

    def _is_over(self, following: str) -> bool:
        """Return whether the mount is at rest or dead, and makes no request that is `following`."""
        at_rest = self._is_whole and not self._last and not following
        return at_rest or bool(self.after) or any(is_death(cue.step) for cue in self.cues)

    def _cue(self, step: Step, following: str) -> Cue:
        if step.act.startswith("makes the upload"):
            return self._next("before create_file", step)
        if self._waits:
            return self._next("before turn", step)
        if self._last and not (self._looked and following):
            return Cue(self._last, self._count[self._last], step)
        return self._next(f"before {following or ('delete' if self._count else 'create_file')}", step)


def _request(step: Step) -> str:
    """The method of Client by which the mount makes a change in this step, or ""."""
    return ("create_file" if step.sends == "create" else step.sends) if step.actor == "one" else ""


def _is_silent(step: Step) -> bool:
    """Return whether nothing is done for the step: the disk is synced by the mount, and state is lost when it is dead."""
    return step.act.startswith(("syncs", "loses")) or step.act.endswith("never carried out")


def is_death(step: Step) -> bool:
    """Return whether the process ends with the step."""
    return step.outcome.startswith("killed") or step.act.startswith(_DEATHS)


def lives(schedule: Search[World]) -> list[Life]:
    """The schedule, a life for each time that the mount came back; then the rest of its user's acts."""
    acts = [step.act for step in schedule.schedule]
    steps = [
        step._replace(outcome="never")
        if step.outcome == "late" and f"{step.sends} is never carried out" in acts
        else step
        for step in schedule.schedule
    ]
    cuts = [0, *(number for number, act in enumerate(acts) if act == "comes back"), len(steps)]
    found = [Life(steps[first:last], not schedule.violation) for first, last in pairwise(cuts)]
    todo = [act for act in schedule.last.mounts[0].todo if act.startswith(("open", "move", "save"))]
    found[-1].program += [Step(USER, act) for act in todo]
    return found


PATHS = {TARGET: "dir/file.txt", SOURCE: "dir/draft.txt", ELSEWHERE: "dir/elsewhere.txt"}
#: Seconds until a late request is carried out, and how long the mounts wait for such requests.
LATE, LIFETIME = 0.4, 1.4

#: Acts of the job of which the model says too little for a real mount: contents of two writers, permissions, directories.
_ONLY_IN_THE_MODEL = {
    "appends", "protects", "deletes the directory", "deletes the directory and makes another",
}  # fmt: skip
#: Those of one mount (tests/component/test_save_interference.py has two) with a file at T. A delete by version does not wait: the
#: real mount may have all bytes of an open file, and delete it by its name (tests/unit/save/test_items.py). Requests that are in
#: flight are in tests/component/test_save_overlap.py and tests/component/test_files_in_use.py.
PLAYABLE = [
    each
    for each in SCENARIOS
    if len(each.users) == 1
    and each.users[0][0] != "mkdir d"
    and not ("queue" in each.mishaps and "remove" in each.users[0])
    and not (each.overlaps or each.takes_time)
    and _ONLY_IN_THE_MODEL.isdisjoint(each.job)
]
#: Those of which a schedule is known that fails without the rule.
REPLAYED = [rule for rule, (_, scenario) in RULES.items() if scenario in PLAYABLE]


def content(token: str) -> bytes:
    """Contents differ in their bytes only."""
    return f"content {token:8}".encode()


def is_by_job(state: State) -> bool:
    return isinstance(state, bytes) and state.startswith(b"content j")


def walk(scenario: Scenario, random: Random) -> Search[World]:
    """A random schedule to a state at rest; what can go wrong does so more often than not."""
    protocol, world = Protocol(scenario), World.first(scenario)
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
        return world.wrong(at_rest)

    search(World.first(scenario), Protocol(scenario).steps, note, 60_000)
    return ends


class Script(Boundaries):
    """Boundaries that have cues: each is acted on once, in order."""

    failures = turns = True

    def __init__(self, life: Life, act: Callable[[Step, str], object]) -> None:
        super().__init__()
        self.cues = life.cues
        self._act_at = act
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

    def reach(self, name: str) -> None:
        with self._looked:
            if name == "before get":
                self._looking.add(threading.get_ident())
            elif name not in ("after get", "before turn", "before delete"):
                self._looking.discard(threading.get_ident())
                self._looked.notify_all()
        super().reach(name)

    def _due(self, name: str) -> list[Callable[[], object]]:
        due: list[Callable[[], object]] = []
        while self.cues and self.cues[0].boundary == name and self.cues[0].nth <= self.passed.count(name):
            due.append(partial(self._act_at, self.cues.popleft().step, name))
        return due


class Play:
    """One schedule against the local server."""

    def __init__(
        self, server: Server, home: Path, scenario: Scenario, schedule: Search[World], rule: str = ""
    ) -> None:
        """`rule`: without which the schedule fails."""
        self.server, self.home, self.scenario = server, home, scenario
        self.job = list(World.first(scenario).job)
        self.done: list[str] = []
        self.lives = lives(schedule)
        # The real mount waits, sees the item at T again, and deletes only what was there before the first save.
        never = "before delete" if rule == "r7_wait" else ""
        last = self.lives[-1]
        last.cues = deque(cue._replace(nth=2) if cue.boundary == never else cue for cue in last.cues)
        self.never = [cue for cue in last.cues if cue.boundary == never]
        self.patience = 3 if never else 1
        self._fh: int | None = None
        self._renaming = self._refusing = self._waits = False
        self._syncs = Step(USER, "unlink") not in schedule.schedule
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
        lost: list[str] = []
        for life in self.lives:
            lost = self._live(life, lost, monkeypatch)

    def _live(self, life: Life, lost: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """One life, in which hidden items of mounts are shown whose state was lost; the mount whose state is lost now."""
        is_last, script = life is self.lives[-1], Script(life, self.act)
        # The job's changes are seen when the schedule says so, not because a machine is slow; nor is a late request later.
        lifetime = self.patience * LIFETIME
        work = self.work = Mortal(self.server, self.home, script, request_lifetime=lifetime, ttl=60)
        script.arm()
        work.start()
        if self.scenario.known_to_reject:
            work.write_back.context.server.learn(rejects=dict.fromkeys(Kind, True))
        self.host = Host(work, "gone" if life.has("cuts the power") else None)
        try:
            for mount in lost:
                # As `jobfs recover --of` does for a state directory that is lost for good.
                work.vfs.refresh()
                work.vfs.expose_hidden_items(mount)
            work.work(lambda: self._program(life, script))
            left = [*script.cues]
            assert left == (self.never if is_last else []), f"never reached: {left} in {script.passed}"
            for step in [*(cue.step for cue in left), *life.after]:
                self.act(step, "at rest")
            if is_last:
                work.settle()
                self._check(work)
        finally:
            script.dead = script.dead or not is_last
            work.end()
        is_lost = life.has("loses the state directory")
        if is_lost:
            named("machine", "loses the state directory").act(Scene("", self.server.store, host=self.host))
            self.owed = set(filter(is_by_job, self.owed))
        self.host.restart(monkeypatch)
        return [work.mount_id] if is_lost else []

    def _program(self, life: Life, script: Script) -> None:
        for step in life.program:
            with script.apart() if step.actor == "job" else nullcontext():
                self.act(step)
        if self._fh is not None:
            self._let_go()

    def _let_go(self) -> None:
        if self._fh is not None:
            fh, self._fh = self._fh, None
            with suppress(JobfsError):
                self.work.vfs.flush(fh)
                self.work.vfs.release(fh)

    def act(self, step: Step, where: str = "") -> None:
        """One step happens. The mount is dead after some."""
        self.done.append(f"{step} [{where}]")
        if is_death(step):
            act = step.act.partition(",")[0] if step.actor == "fate" else "kills the mount"
            named("machine", act).act(Scene("", self.server.store, host=self.host))
        elif step.actor == "job":
            self._job(step.act)
        elif step.actor == USER:
            self._user(step.act)
        elif step.actor == "net":
            eventually(lambda: all(e.ms is not None for e in self.server.log.entries() if e.fault == "late"))
        elif step.actor == "one":
            self._fail_next(_LOST[step.outcome], step.sends, self.patience * LATE)
        else:
            self._fate(step.act)

    def _fate(self, act: str) -> None:
        if act.startswith("makes the upload"):
            self._fail_next(named("network", "is slow"), "create", 0.2)
        elif act.startswith("gives the rename up"):
            self._refuses(self._renaming)
        else:
            # A request waits for its connection until its look is old.
            self._waits = True
            time.sleep(4 * max(0.05, self.work.write_back.client.health.latency or 0.0))

    def _fail_next(self, fault: Interference, on: str, delay: float) -> None:
        strike = partial(self.server.faults.fail_next, on=on, delay=delay)
        fault.act(Scene("", self.server.store, fault=strike))

    def _refuses(self, everything: bool) -> None:
        """From now on the server refuses all requests, or none."""
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

    def _sees(self, path: str) -> None:
        """A user who saves over the item, or removes it, has seen it."""
        if self.server.store.exists(path):
            self.owed.discard(self.server.store.read(path))

    def _user(self, act: str) -> None:
        vfs, path = self.work.vfs, PATHS[TARGET]
        if act in ("open", "truncate", "remove"):
            self._sees(path)
        if act == "open":
            self._open(path)
        elif act == "truncate":
            self._fh = vfs.open(path, os.O_WRONLY | os.O_TRUNC).fh
        elif act.startswith("save"):
            self._save(path, act.split()[1])
        elif act == "rename":
            self._let_go()
            self._renaming = True
            with suppress(JobfsError):
                vfs.rename(PATHS[SOURCE], path)
            self._renaming = False
            self._refuses(False)
        elif act == "move":
            self._let_go()
            vfs.rename(path, PATHS[ELSEWHERE])
        elif act == "unlink":
            vfs.unlink(path)
            self.owed.clear()
        else:
            assert act == "remove"
            self._fh = vfs.open(path, os.O_RDONLY).fh
            vfs.unlink(path)

    def _open(self, path: str) -> None:
        if self.work.exists(path):
            self.work.read(path)
            self._fh = self.work.vfs.open(path, os.O_RDWR).fh
        else:
            self._fh = self.work.vfs.create(path, 0o644, os.O_RDWR | os.O_CREAT, CALLER).fh

    def _save(self, path: str, token: str) -> None:
        if self._fh is None:
            self._open(path)
        assert self._fh is not None
        vfs = self.work.vfs
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


@pytest.mark.parametrize("rule", REPLAYED)
def test_a_schedule_that_fails_without_a_rule_succeeds_on_the_real_mount(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """save/protocol.md: the model's schedules against the real code."""
    switch, scenario = RULES[rule]
    found = Protocol(scenario, switch).explore()
    play = Play(server, tmp_path / "home", scenario, found, switch)
    play.run(monkeypatch)
    print(f"{rule}\n{found.story()}\nplayed: {play.done}")


@pytest.mark.parametrize("scenario", PLAYABLE, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_the_real_mount_ends_as_the_model_does_on_random_schedules(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario, seed: int
) -> None:
    """save/protocol.md: a random way through the model, with all rules; the real mount comes to one of its ends."""
    found = walk(scenario, Random(seed))
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
    _, scenario = RULES["R1: what was renamed while a request on it may be carried out is no base"]
    play = Play(server, tmp_path / "home", scenario, walk(scenario, Random(5)))
    if wrong in WRONG:
        check = play._check
        monkeypatch.setattr(play, "_check", lambda work: (WRONG[wrong](server), check(work)))
    else:
        play.lives[-1].cues.append(Cue("before update", 99, Step("job", "writes")))
    with pytest.raises(AssertionError, match=None if wrong in WRONG else "never reached"):
        play.run(monkeypatch)

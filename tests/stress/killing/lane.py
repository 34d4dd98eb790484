"""A lane: a server, a job and a mount of its own, killed again and again under load, and looked at after each recovery.

A chapter is one workspace under one set of conditions; it has several rounds. A round is load and kill, once or more often,
with kills during the recovery too; then all is settled and compared with the ledger.
"""

from __future__ import annotations

import json
import operator
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

from tests.support.forks import ForkedMount, ForkServer
from tests.support.judge import leftovers
from tests.support.mounts import detach
from tests.support.serverside import found_on, hidden

from jobfs.emulator import EmulatorConfig, Server, running
from jobfs.state.records import Stage

from . import verdict
from .conditions import Conditions, drawn
from .contents import Content, Contents
from .ledger import Ledger
from .writer import Job, Writer

WRITERS = 4
#: Rounds of one chapter.
ROUNDS = 6
#: Seconds: that a load runs at most; that all may take to settle; that a difference may last.
_LOAD, _SETTLING, _LASTING = 1.4, 25.0, 6.0

UNTOUCHED = {
    f"untouched/{name}": f"nobody writes to {name}\n" * 40 for name in ("a.txt", "b.bin", "sub/c.txt")
}


@dataclass(slots=True)
class Tally:
    """What a lane has done so far."""

    rounds: int = 0
    kills: int = 0
    recovery_kills: int = 0
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        """With what another lane did."""
        return Tally(*map(operator.add, astuple(self), astuple(other)))


class Lane:
    """Plays chapters until told to stop. `tally` says what came of it."""

    def __init__(self, home: Path, seed: int, *, overlap: bool = False) -> None:
        """`overlap`: the saves of its mounts overlap (save/protocol.md R13)."""
        self.home, self.seed = home, seed
        self.tally = Tally()
        home.mkdir(parents=True, exist_ok=True)
        self.forks = ForkServer(home, overlap=overlap)

    def close(self) -> None:
        """Ends what it started; directories of chapters without a violation are gone already."""
        self.forks.close()
        if not self.tally.violations:
            shutil.rmtree(self.home)

    def play(self, until: Callable[[], bool]) -> None:
        """Plays chapters with conditions at random, until `until()`."""
        number = 0
        while not until():
            number += 1
            rng = random.Random(f"{self.seed}/{number}")
            self.chapter(number, drawn(rng), ROUNDS, until)

    def chapter(
        self, number: int, conditions: Conditions, rounds: int, until: Callable[[], bool] = lambda: False
    ) -> None:
        """One workspace, mounted and killed in several rounds, unmounted in good order; ended by a violation."""
        home = self.home / f"chapter{number}"
        (home / "server").mkdir(parents=True)
        chapter = Chapter(self, home, f"{self.seed}/{number}", conditions)
        if not chapter.play(rounds, until):
            shutil.rmtree(home)


class Chapter:
    """See `Lane`."""

    def __init__(self, lane: Lane, home: Path, name: str, conditions: Conditions) -> None:
        self.lane, self.home, self.name, self.conditions = lane, home, name, conditions
        self._random = random.Random(name)
        self._contents = Contents(self._random.getrandbits(32))
        self._watcher: subprocess.Popen[bytes] | None = None

    def play(self, rounds: int, until: Callable[[], bool]) -> bool:
        """True if there was a violation."""
        tally = self.lane.tally
        seed, log = self._random.getrandbits(32), self.home / "requests.log"
        config = EmulatorConfig(behaviour=self.conditions.behaviour, seed=seed, log=log)
        with running(config, self.home / "server") as server:
            self._seed(server)
            forks, options = self.lane.forks, self.conditions.options
            mounted = ForkedMount(forks, server, self.home / "mount", log_level="info", **options)
            try:
                mounted.mount()
                self.watch(mounted)
                for number in range(1, rounds + 1):
                    one = Round(self, server, mounted, number)
                    try:
                        violations = one.play()
                    except BrokenError:
                        violations = one.violations
                    tally.rounds += 1
                    tally.acknowledged += one.ledger.acknowledged
                    if not violations and (number == rounds or until()):
                        violations = self._end(mounted)
                    if violations:
                        tally.violations += violations
                        one.report(violations)
                        return True
                    if until():
                        break
            finally:
                mounted.kill()
                self.watch_no_more()
        return False

    def watch(self, mounted: ForkedMount) -> None:
        """Has a program watch the mount, if the conditions say so."""
        self.watch_no_more()
        if self.conditions.watched:
            words = ["inotifywait", "-m", "-r", "-q", str(mounted.path)]
            self._watcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def watch_no_more(self) -> None:
        """Ends the program that watches."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.wait()

    def _seed(self, server: Server) -> None:
        tree: dict[str, bytes | str | None] = {}
        for number in range(WRITERS):
            writer = Writer(number, Path(), Ledger({}), self._contents, 0, self.lane.forks, calm=True)
            tree |= dict.fromkeys([f"w{number}", *writer.directories[:2]])
            for path in self._random.sample(writer.files, 7):
                tree[path] = self._contents.make("seed", self._random.randrange(20, 3000)).data
        server.store.seed({**tree, **UNTOUCHED}, age=60)
        for data in UNTOUCHED.values():
            self._contents.adopt(data.encode())
        self.untouched = self.fingerprint(server)

    @staticmethod
    def fingerprint(server: Server) -> dict[str, tuple[str, int]]:
        """What would be different of the untouched files if anybody had touched them."""
        files = [item for item in server.store.items() if not item.is_dir]
        return {item.path: (item.id, item.updated_us) for item in files if item.path.startswith("untouched/")}

    def _end(self, mounted: ForkedMount) -> list[str]:
        """An unmount in good order leaves nothing to do, but what has to wait for a request without an answer (R7)."""
        # What was sent is over then: a mount that was killed has no record of what went unanswered.
        time.sleep(self.conditions.patience)
        self.watch_no_more()
        began = time.monotonic()
        try:
            mounted.umount()
        except AssertionError as error:
            return [f"umount: {error}"]
        left = []
        for path in mounted.state.rglob("journal.db"):
            with closing(sqlite3.connect(path)) as journal:
                changes = journal.execute(
                    "SELECT coalesce(record ->> 'stage', 'staging'), record ->> 'asides' FROM change"
                ).fetchall()
                (saves,) = journal.execute(
                    "SELECT count(*) FROM file "
                    "WHERE (record ->> 'generation' AND record ->> 'never_sent' IS NOT 1) OR record ->> 'open_generation'"
                ).fetchone()
                saves += sum(not _waits(began, *change) for change in changes)
                (local,) = journal.execute(
                    "SELECT count(*) FROM file WHERE record ->> 'never_sent' AND record ->> 'generation'"
                ).fetchone()
            files = list((path.parent / "bytes").iterdir())
            left += [f"{file} is left after the unmount" for file in files[local:]]
            left += [f"the journal still has {saves} saves after the unmount"] * bool(saves)
        return left


class Round:
    """One round; `ledger` has its story."""

    def __init__(self, chapter: Chapter, server: Server, mounted: ForkedMount, number: int) -> None:
        self.chapter, self.server, self.mounted, self.number = chapter, server, mounted, number
        self.conditions = chapter.conditions
        self.name = f"{chapter.name}/{number}"
        self._random = random.Random(self.name)
        self._contents = chapter._contents
        baseline = self._found()
        self.ledger = Ledger(_touched(baseline), self.conditions.lateness)
        self.violations: list[str] = []

    def _found(self) -> dict[str, Content]:
        mount = verdict.in_mount(self.mounted.path, self._contents)
        found = {**verdict.on_server(self.server, self._contents), **verdict.local_files(mount)}
        # What was never closed is kept as it was from now on.
        return {
            path: self._contents.adopt(content.data) if content.name.startswith("TORN") else content
            for path, content in found.items()
        }

    def play(self) -> list[str]:
        """What is wrong, once all has settled."""
        self.server.log.clear()
        for rule in self.conditions.faults:
            self.server.faults.add(rule)
        end_job = threading.Event()
        job = self._start_job(end_job)
        try:
            for _ in range(self._random.choice([1, 1, 2, 3])):
                self._load_and_kill()
                self._recover()
            if self.conditions.faults:
                time.sleep(self._random.random() * 0.5)
        finally:
            end_job.set()
            self.server.faults.clear()
            if job is not None:
                job.join()
        time.sleep(self.conditions.lateness)
        return self.violations or self._judge()

    def _start_job(self, end: threading.Event) -> threading.Thread | None:
        if not self.conditions.job_pause:
            return None
        paths = [path for number in range(WRITERS) for path in self._writer(number).files]
        chance, pause = self._random.getrandbits(32), self.conditions.job_pause
        job = Job(self.server, self.ledger, self._contents, paths, chance, pause)
        thread = threading.Thread(target=job.run, args=[end], name="job")
        thread.start()
        return thread

    def _writer(self, number: int) -> Writer:
        chance, calm = self._random.getrandbits(32), self.conditions.calm
        forks = self.chapter.lane.forks
        return Writer(number, self.mounted.path, self.ledger, self._contents, chance, forks, calm=calm)

    def _load_and_kill(self) -> None:
        stop = threading.Event()
        writers = [self._writer(number) for number in range(WRITERS)]
        threads = [threading.Thread(target=writer.run, args=[stop], name=writer.name) for writer in writers]
        for thread in threads:
            thread.start()
        time.sleep(self._random.random() ** 1.3 * _LOAD)
        stop.set()
        killed = time.monotonic()
        self._kill("killed under load")
        self.ledger.end_of_life(killed)
        self.violations += verdict.durable_missing(self.server, self._contents, self.ledger)
        for thread in threads:
            thread.join(20)
            if thread.is_alive():
                self.violations.append(f"{thread.name}: a call hangs 20 s after the mount was killed")
        self.ledger.end_of_life(killed)
        detach(self.mounted.path)
        self.violations += [f"{writer.name}: {text}" for writer in writers for text in writer.unexpected]
        self.chapter.lane.tally.kills += 1

    def _kill(self, text: str) -> None:
        self.ledger.tell(text)
        self.mounted.kill_only()
        self.ledger.tell("it is dead")

    def _recover(self) -> None:
        while self._random.random() < 0.3:
            self.mounted.process = self.mounted.launch()
            time.sleep(self._random.random() * 0.7)
            self._kill("killed during the recovery")
            detach(self.mounted.path)
            self.chapter.lane.tally.recovery_kills += 1
        try:
            self.mounted.mount()
            self.chapter.watch(self.mounted)
            self.ledger.tell("mounted again")
            self.violations += verdict.drafts_missing(self.mounted.path, self._contents, self.ledger)
        except AssertionError as error:
            self.violations.append(f"it can't be mounted again: {error}")
            raise BrokenError from error

    def _judge(self) -> list[str]:
        end = time.monotonic() + _SETTLING
        while (unsettled := self._unsettled()) and time.monotonic() < end:
            time.sleep(0.03)
        if unsettled:
            return unsettled
        end = time.monotonic() + _LASTING
        while (violations := self._compare()) and time.monotonic() < end:
            time.sleep(0.2)
        return violations

    def _unsettled(self) -> list[str]:
        try:
            left = self.mounted.ask("flush", path=None, timeout=5)["left"]
            with suppress(FileNotFoundError):
                list(self.mounted.path.iterdir())
        except Exception as error:
            return [f"flush: {error!r}"]
        status = self.mounted.status()
        told = {"not sent": left, **{name: status[name] for name in ("failed", "unsent")}}
        told["hidden"] = hidden(self.server)
        return [f"{what}: {entry}" for what, entries in told.items() for entry in entries]

    def _compare(self) -> list[str]:
        try:
            mount = verdict.in_mount(self.mounted.path, self._contents)
            modes = verdict.modes_wrong(self.mounted.path, self.ledger)
        except OSError as error:
            return [f"the mount can't be read: {error}"]
        server = verdict.on_server(self.server, self._contents)
        found = verdict.Verdict(self.ledger, _touched(server), _touched(mount), self.conditions)
        touched = self.chapter.fingerprint(self.server) != self.chapter.untouched
        others = ["a file that nobody wrote to was touched"] * touched
        status = self.mounted.status()
        told = self.conditions.job_pause or self.conditions.lateness or self.conditions.doubtful
        seconds = [entry for entry in status["conflicts"] if ".conflict-" in entry["path"]]
        conflicts = [f"conflict though the job was quiet: {entry}" for entry in seconds]
        others += [] if told else conflicts
        return [*found.judge(), *modes, *leftovers(found_on(self.server)), *others]

    def report(self, violations: list[str]) -> None:
        """Prints what is wrong; what was promised, what was found, and the way there are in `report.txt`."""
        head = [f"VIOLATION in seed/chapter/round {self.name}", f"conditions: {self.conditions}", *violations]
        print("\n  ".join([*head, f"all of it: {self.chapter.home}"]), file=sys.stderr, flush=True)
        story = [f"{_wall(when)} {text}" for when, text in self.ledger.story]
        requests = [f"{_wall(entry.time)} {entry}" for entry in self.server.log.entries()]
        there = verdict.on_server(self.server, self._contents)
        tree = [f"{path}: {content}" for path, content in there.items()]
        text = "\n".join([*head, "", *sorted(story + requests), "", *tree, "", self.mounted.log])
        (self.chapter.home / "report.txt").write_text(text)


def _wall(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"


def _touched(tree: dict[str, Content]) -> dict[str, Content]:
    """A tree without the files that nobody writes to."""
    return {path: content for path, content in tree.items() if not path.startswith("untouched")}


class BrokenError(Exception):
    """The lane can't go on in this chapter."""


def _waits(since: float, stage: str, asides: str) -> bool:
    """True for a change that is placed or cancelled, and has an item that may not be deleted yet."""
    over = Stage(stage) in (Stage.PLACED, Stage.CANCELLED)
    return over and any(aside["unsure_until"] > since for aside in json.loads(asides or "[]"))

"""A lane: a server, a job and a mount of its own, killed again and again under load, and looked at after each recovery.

A chapter is one workspace under one set of conditions; it has several rounds. A round is load and death, once or more often,
with deaths during the recovery too; then all is settled and compared with the ledger.
"""

from __future__ import annotations

import operator
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

from tests.support.files import on_disk
from tests.support.forks import ForkedMount, ForkServer
from tests.support.interferences import Scene, named
from tests.support.judge import leftovers
from tests.support.mounts import detach
from tests.support.serverside import found_on, hidden, visible

from jobfs.emulator import EmulatorConfig, Server, StoredItem, running
from jobfs.state import Change, File
from jobfs.state.journal import Journal
from jobfs.state.records import Stage

from . import verdict
from .calls import Place
from .conditions import Conditions, drawn
from .contents import Content, Contents
from .job import Job
from .ledger import Ledger
from .writer import Writer, files_of

WRITERS = [f"w{number}" for number in range(4)]
#: Rounds of one chapter.
ROUNDS = 6
#: Seconds: that a load runs at most; that all may take to settle; that a difference may last.
_LOAD, _SETTLING, _LASTING = 1.4, 25.0, 6.0
#: How mounts end, and how often. Without its state directory, a mount has promised only what the server has.
_DEATHS = {named("machine", "kills the mount"): 3, named("machine", "cuts the power"): 1}

UNTOUCHED = ("untouched/a.txt", "untouched/b.bin", "untouched/sub/c.txt")


@dataclass(slots=True)
class Tally:
    """What a lane has done so far."""

    rounds: int = 0
    kills: int = 0
    power_cuts: int = 0
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
        """End what it started; directories of chapters without a violation are gone already."""
        self.forks.close()
        if not self.tally.violations:
            shutil.rmtree(self.home)

    def play(self, until: Callable[[], bool]) -> None:
        """Play chapters with conditions at random, until `until()`."""
        number = 0
        while not until():
            number += 1
            self.chapter(number, drawn(random.Random(f"{self.seed}/{number}")), ROUNDS, until)

    def chapter(
        self, number: int, conditions: Conditions, rounds: int, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Play one workspace, mounted and killed in several rounds, unmounted in good order; ended by a violation."""
        home = self.home / f"chapter{number}"
        (home / "server").mkdir(parents=True)
        Chapter(self, home, f"{self.seed}/{number}", conditions).play(rounds, until)
        if not self.tally.violations:
            shutil.rmtree(home)


class Chapter:
    """See `Lane`."""

    def __init__(self, lane: Lane, home: Path, name: str, conditions: Conditions) -> None:
        self.lane, self.home, self.name, self.conditions = lane, home, name, conditions
        self._random = random.Random(name)
        self.contents = Contents(self._random.getrandbits(32))
        self._watcher: subprocess.Popen[bytes] | None = None

    def play(self, rounds: int, until: Callable[[], bool]) -> None:
        """Play rounds until there is a violation, or `until()`."""
        tally = self.lane.tally
        seed, log = self._random.getrandbits(32), self.home / "requests.log"
        config = EmulatorConfig(behaviour=self.conditions.behaviour, seed=seed, log=log)
        with running(config, self.home / "server") as server:
            self._seed(server)
            mounted = ForkedMount(
                self.lane.forks, server, self.home / "mount", log_level="info", **self.conditions.options
            )
            try:
                mounted.mount()
                self.watch(mounted)
                for number in range(1, rounds + 1):
                    one = Round(self, server, mounted, number)
                    with suppress(BrokenError):
                        one.play()
                    tally.rounds += 1
                    tally.acknowledged += one.ledger.acknowledged
                    if not one.violations and (number == rounds or until()):
                        one.violations += self._end(mounted)
                    if one.violations:
                        tally.violations += one.violations
                        one.report()
                    if one.violations or until():
                        break
            finally:
                mounted.kill()
                self.watch_no_more()

    def watch(self, mounted: ForkedMount) -> None:
        """Let a program watch the mount, if the conditions say so."""
        self.watch_no_more()
        if self.conditions.watched:
            words = ["inotifywait", "-m", "-r", "-q", str(mounted.path)]
            self._watcher = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def watch_no_more(self) -> None:
        """End the program that watches."""
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
            self._watcher = None

    def _seed(self, server: Server) -> None:
        tree: dict[str, bytes | str | None] = {
            path: self.contents.make("untouched", 1500).data for path in UNTOUCHED
        }
        for writer in WRITERS:
            tree |= dict.fromkeys([writer, f"{writer}/d0", f"{writer}/d1"])
            for path in self._random.sample(files_of(writer), 7):
                tree[path] = self.contents.make("seed", self._random.randrange(20, 3000)).data
        server.store.seed(tree, age=60)
        self.untouched = untouched(server)

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
        left: list[object] = []
        for path in mounted.state.rglob("journal.db"):
            with closing(Journal(path)) as journal:
                files, changes = journal.load_records(File), journal.load_records(Change)
            local = [file for file in files if file.never_sent and file.generation]
            left += [
                file for file in files if file.open_generation or (file.generation and file not in local)
            ]
            left += [change for change in changes if not _waits(began, change)]
            left += list((path.parent / "bytes").iterdir())[len(local) :]
        return [f"{one} is left after the unmount" for one in left]


class Host:
    """The machine of a mount whose process is another one: plays the machine's acts of the list."""

    def __init__(self, mounted: ForkedMount) -> None:
        self._mounted = mounted

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._mounted.kill_only()

    def cut_power(self) -> None:
        """Start the next mount in another boot, which can't know that everything had reached the disk."""
        self.kill()
        self._mounted.boot = f"after {self._mounted.boot or 'this boot'}"


class Round:
    """One round; `ledger` has its story, and `violations` what is wrong."""

    def __init__(self, chapter: Chapter, server: Server, mounted: ForkedMount, number: int) -> None:
        self.chapter, self.server, self.mounted, self.number = chapter, server, mounted, number
        self.conditions = chapter.conditions
        self.name = f"{chapter.name}/{number}"
        self._random = random.Random(self.name)
        self._contents = chapter.contents
        self.ledger = Ledger(self._found(), self.conditions.lateness)
        self.violations: list[str] = []

    def _found(self) -> dict[str, Content]:
        found = {**self._on_server(), **verdict.local_files(self._in_mount())}
        # What was never closed is kept as it was from now on.
        return {path: self._contents.adopt(one.data) if one.is_torn else one for path, one in found.items()}

    def _on_server(self) -> dict[str, Content]:
        return self._contents.tree(visible(self.server))

    def _in_mount(self) -> dict[str, Content]:
        return self._contents.tree(on_disk(self.mounted.path))

    def play(self) -> None:
        """Find what is wrong, once all has settled."""
        self.server.log.clear()
        for rule in self.conditions.faults:
            self.server.faults.add(rule)
        with self._job_at_work():
            for _ in range(self._random.choice([1, 1, 2, 3])):
                self._load_and_die()
                self._recover()
            if self.conditions.faults:
                time.sleep(self._random.random() * 0.5)
        time.sleep(self.conditions.lateness)
        self.violations += [] if self.violations else self._judge()

    @contextmanager
    def _job_at_work(self) -> Iterator[None]:
        """Let the job work during the block, unless it is quiet; then nothing fails any longer."""
        paths = [path for writer in WRITERS for path in files_of(writer)]
        seed, pause, end = self._random.getrandbits(32), self.conditions.job_pause, threading.Event()
        job = Job(self.server, self.ledger, self._contents, paths, seed, pause)
        thread = threading.Thread(target=job.run, args=[end], name="job")
        if pause:
            thread.start()
        try:
            yield
        finally:
            end.set()
            self.server.faults.clear()
            if pause:
                thread.join()

    def _load_and_die(self) -> None:
        forks, calm = self.chapter.lane.forks, self.conditions.calm
        place = Place(self.mounted.path, self.ledger, self._contents, forks, calm)
        stop, writers = (
            threading.Event(),
            [Writer(name, place, self._random.getrandbits(32)) for name in WRITERS],
        )
        threads = [threading.Thread(target=writer.run, args=[stop], name=writer.name) for writer in writers]
        for thread in threads:
            thread.start()
        time.sleep(self._random.random() ** 1.3 * _LOAD)
        stop.set()
        note_end = self._die("under load")
        self.violations += verdict.durable_missing(self.server, self._contents, self.ledger)
        for thread in threads:
            thread.join(20)
            if thread.is_alive():
                self.violations.append(f"{thread.name}: a call hangs 20 s after the mount was killed")
        note_end()
        detach(self.mounted.path)
        self.violations += [f"{writer.name}: {text}" for writer in writers for text in writer.unexpected]
        self.chapter.lane.tally.kills += 1

    def _die(self, when: str) -> Callable[[], None]:
        """End the mount by an act of the machine; return what notes that for calls that return only later."""
        (act,) = self._random.choices(list(_DEATHS), list(_DEATHS.values()))
        power_lost = act.name == "cuts the power"
        self.chapter.lane.tally.power_cuts += power_lost
        self.ledger.tell(f"{act}: {when}")
        note_end = partial(self.ledger.end_of_life, time.monotonic(), power_lost=power_lost)
        act.act(Scene("", self.server.store, host=Host(self.mounted)))
        self.ledger.tell("it is dead")
        note_end()
        return note_end

    def _recover(self) -> None:
        while self._random.random() < 0.3:
            self.mounted.process = self.mounted.launch()
            time.sleep(self._random.random() * 0.7)
            self._die("during the recovery")
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
        return _lasting(self._unsettled, _SETTLING, 0.03) or _lasting(self._compare, _LASTING, 0.2)

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
            mount = self._in_mount()
            modes = verdict.modes_wrong(self.mounted.path, self.ledger)
        except OSError as error:
            return [f"the mount can't be read: {error}"]
        found = verdict.Verdict(self.ledger, self._on_server(), mount, self.conditions)
        touched = untouched(self.server) != self.chapter.untouched
        others = ["a file that nobody wrote to was touched"] * touched
        if not (self.conditions.job_pause or self.conditions.lateness or self.conditions.doubtful):
            conflicts = [
                entry for entry in self.mounted.status()["conflicts"] if ".conflict-" in entry["path"]
            ]
            others += [f"conflict though the job was quiet: {entry}" for entry in conflicts]
        return [*found.judge(), *modes, *leftovers(found_on(self.server)), *others]

    def report(self) -> None:
        """Print what is wrong; what was promised, what was found, and the way there are in `report.txt`."""
        head = [
            f"VIOLATION in seed/chapter/round {self.name}",
            f"conditions: {self.conditions}",
            *self.violations,
        ]
        print("\n  ".join([*head, f"all of it: {self.chapter.home}"]), file=sys.stderr, flush=True)
        story = [f"{_wall(when)} {text}" for when, text in self.ledger.story]
        requests = [f"{_wall(entry.time)} {entry}" for entry in self.server.log.entries()]
        tree = [f"{path}: {content}" for path, content in self._on_server().items()]
        text = "\n".join([*head, "", *sorted(story + requests), "", *tree, "", self.mounted.log])
        (self.chapter.home / "report.txt").write_text(text)


def _lasting(find: Callable[[], list[str]], limit: float, pause: float) -> list[str]:
    """Return what is wrong after `limit` seconds, if it has been so all the time."""
    end = time.monotonic() + limit
    while (wrong := find()) and time.monotonic() < end:
        time.sleep(pause)
    return wrong


def _wall(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{int(seconds % 1 * 1000):03}"


def untouched(server: Server) -> list[StoredItem]:
    """Return the items that nobody writes to."""
    return [item for item in server.store.items() if item.path in UNTOUCHED]


class BrokenError(Exception):
    """The lane can't go on in this chapter."""


def _waits(since: float, change: Change) -> bool:
    """True for a change that is placed or cancelled, and has an item that may not be deleted yet."""
    is_over = change.stage in (Stage.PLACED, Stage.CANCELLED)
    return is_over and any(aside.unsure_until > since for aside in change.asides)

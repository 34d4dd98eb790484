"""The stage of a workload: the local server, a mount with a shell's usual limit of descriptors, and the bounds that must hold.

Whatever happens, a workload ends: when its time is over, the mount and all programs are killed, and every call that waits for
them fails. Afterwards nothing is mounted, nothing runs, and no file is left.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stress.report import Check, Row, at_most, equal, in_time, none
from tests.support.forks import ForkedMount, ForkServer
from tests.support.interferences import Actor, Scene, named
from tests.support.judge import Found, Judge, is_hidden
from tests.support.mounts import detach, environment, is_mounted
from tests.support.serverside import found_on
from tests.support.waiting import PATIENCE

from jobfs.emulator import EmulatorConfig, Rule, Server

from .bounds import MEMORY, ROWS, Bounds, Sampler, standing
from .calls import NotedCalls, Notes, listed

#: What a login shell has, soft and hard.
DESCRIPTORS = 1024

#: Delays shorter than the defaults, so that a run does not wait for them.
_OPTIONS = {"ttl": "1", "write-back-delay": "0.1", "request-lifetime": "1", "timeout": "10"}

#: Seconds after which tombstones are pruned that nobody can need.
_PRUNING = 30.0

#: Seconds that `jobfs umount` may take once all is sent; that calls get to return after their mount was killed.
_UMOUNT, _RETURN = 10.0, 10.0


@dataclass(frozen=True)
class Workload:
    """`play` gets a stage on which nothing has begun; after `seconds` it is ended."""

    name: str
    play: Callable[..., None]
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)


class Stage:
    """A context, for one workload. `pause`: seconds between samples; `memory`: see bounds.MEMORY."""

    def __init__(
        self,
        work: Workload,
        forks: ForkServer,
        home: Path,
        *,
        seed: int = 0,
        pause: float,
        memory: int = MEMORY,
    ) -> None:
        self.home, self.random, self.memory = home, random.Random(f"{seed}/{work.name}"), memory
        self.row = Row(work.name, str(work.arguments))
        self.server = Server(EmulatorConfig(seed=seed), home / "far")
        self.mounted = ForkedMount(forks, self.server, home / "near")
        self.notes, self.expected = Notes(), Judge()
        self.calls = NotedCalls(self.path, self.notes)
        self.sampler = Sampler(self.server.store, self.mounted.state, self._pid, pause)
        self.expired = False
        self._lock = threading.Lock()
        self._programs: set[subprocess.Popen[Any]] = set()
        #: What is undone at the end, when nothing runs.
        self.ending = ExitStack()
        self._watch = threading.Timer(work.seconds, self._expire)

    @property
    def path(self) -> Path:
        """Return where the job is mounted."""
        return self.mounted.path

    def __enter__(self) -> Stage:
        self._began = time.monotonic()
        self._watch.daemon = True
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.cancel()
        self.row.seconds = time.monotonic() - self._began
        self._kill()
        self.sampler.stop()
        with suppress(subprocess.TimeoutExpired):
            self.mounted.kill_only()
        for program in self._programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(_RETURN)
        self.server.close()
        self.ending.close()
        shutil.rmtree(self.home, ignore_errors=True)
        assert not is_mounted(self.path)

    def _expire(self) -> None:
        self.expired = True
        self._kill()

    def _kill(self) -> None:
        """Kill the mount first: then whatever waits for it ends by itself."""
        with self._lock:
            pids = [self._pid(), *(program.pid for program in self._programs)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL) if pid is not None else None
        detach(self.path)

    def _pid(self) -> int | None:
        process = self.mounted.process
        return process.pid if process is not None else None

    def start(
        self, tree: Mapping[str, bytes | None], *, latency: float, bandwidth: int = 0, **options: Any
    ) -> None:
        """Seed, serve with `latency` (ms) and `bandwidth` (bytes a second), and mount with these flags."""
        self.server.store.seed(tree, age=3600)
        above = {path[:end] for path in tree for end, character in enumerate(path) if character == "/"}
        self.expected.put_all({**dict.fromkeys(above), **tree})
        self.server.set(latency=latency, bandwidth=bandwidth)
        self.server.start()
        self.mounted.options = _OPTIONS | {name.replace("_", "-"): value for name, value in options.items()}
        self.mounted.mount()
        os.listdir(self.path)
        self.baseline = self.sampler.take()
        assert min(self.baseline.descriptors, self.baseline.threads, self.baseline.memory) > 0, self.baseline
        self.sampler.start()

    def act(self, actor: Actor, name: str, path: str = "", data: bytes = b"", **rule: Any) -> None:
        """Play an act of the list. The job writes `data` to `path`; a fault strikes what fits `rule`."""

        def strike(kind: Any, **options: Any) -> None:
            self.server.faults.add(Rule(kind, **{**options, **rule}))

        scene = Scene(path, self.server.store, lambda before: data, host=self.mounted, fault=strike)
        named(actor, name).act(scene)

    # Programs

    def output(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a program, which is killed with the mount, and return its exit code and outputs."""
        program = subprocess.Popen(
            list(map(str, command)), env=environment(self.mounted.home, None), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with self._lock:
            self._programs.add(program)
        stdout, stderr = program.communicate()
        with self._lock:
            self._programs.discard(program)
        return subprocess.CompletedProcess(program.args, program.returncode, stdout, stderr)

    def run(self, *command: str | Path, cwd: Path | None = None, what: str = "") -> None:
        """Run a program, and check that it ends with 0."""
        # Not Popen's cwd: the child changes that before its exec, which the parent waits for.
        place = ["env", "-C", str(cwd)] if cwd else []
        done = self.output(*place, *command)
        first = done.stderr.decode(errors="replace").splitlines()[:1] if done.returncode else []
        found = ": ".join([f"ends with {done.returncode}", *first])
        self.check(equal(what or Path(command[0]).name, found, "ends with 0"))

    def together(self, *tasks: Callable[[], None]) -> None:
        """Run them at the same time; raise the first error of one when all have ended."""
        with ThreadPoolExecutor(len(tasks)) as pool:
            try:
                for task in [pool.submit(task) for task in tasks]:
                    task.result()
            except KeyboardInterrupt:
                self._expire()  # else the pool waits for them
                raise

    # What must hold

    def check(self, *checks: Check) -> None:
        """Note bounds and whether they held."""
        self.row.checks += checks

    def answers(self) -> None:
        """Check that `jobfs status` answers within two seconds."""
        began, failed = time.monotonic(), ""
        try:
            self.mounted.status()
        except Exception as error:
            failed = f"{type(error).__name__} after {time.monotonic() - began:.1f} s: {error}"
        self.check(in_time("seconds until status answers", time.monotonic() - began, 2.0, failed))

    def rest(self, within: float) -> None:
        """Wait until everything is sent and cleaned up, and check that."""
        # A listing is what shows a leftover of a create whose answer was lost.
        took = self._list_until(lambda: self.sampler.take().at_rest, within)
        late = "" if self.sampler.now.at_rest else f"not within {took:.0f}: {self.sampler.now}"
        self.check(in_time("seconds until all is sent and cleaned up", took, max(took, within), late))

    def finish(self, bounds: Bounds, within: float = PATIENCE, umount: float = _UMOUNT) -> None:
        """Check the end of most workloads: all comes to rest, the bounds hold, nothing is lost, and it unmounts in good order."""
        self.settle(bounds, within)
        self.compare(bounds.flipped + bounds.conflicts)
        self.unmount(umount)

    def settle(self, bounds: Bounds, within: float = PATIENCE) -> None:
        """Wait until everything is sent and cleaned up, and check the bounds."""
        self.rest(within)
        items = len(self.server.store.items())
        # A table with more rows than that is pruned after a listing.
        self._list_until(
            lambda: max(self.sampler.take().tables.values(), default=0) <= items + ROWS, _PRUNING
        )
        rest = self.sampler.take()
        self.check(*standing(self.sampler.peak, rest, self.baseline, items, bounds, self.memory))

    def _list_until(self, reached: Callable[[], bool], within: float) -> float:
        """Wait for that, with a listing each second; return the seconds it took."""
        began = looked = time.monotonic()
        while not reached() and not self.expired and (now := time.monotonic()) - began <= within:
            if now - looked > 1 and self._pid() is not None:
                looked = now
                with suppress(OSError):
                    os.listdir(self.path)
            time.sleep(0.05)
        return time.monotonic() - began

    def succeeds(self, *words: str | Path, within: float) -> None:
        """Check that another jobfs command ends with 0 within so many seconds."""
        try:
            done = self.mounted.jobfs(*words, timeout=within)
            output = f" {done.stdout}{done.stderr}" if done.returncode else ""
            found = f"ends with {done.returncode}{output}"
        except subprocess.TimeoutExpired:
            found = f"not within {within:g} s"
        self.check(equal(str(words[0]), found[:200], "ends with 0"))

    def recover(self, within: float) -> None:
        """Check that `jobfs recover` sends what is left within so many seconds."""
        words = ["--base-url", self.server.url, "--request-lifetime", _OPTIONS["request-lifetime"]]
        places: list[str | Path] = ["--state-dir", self.mounted.state, "--cache-dir", self.mounted.cache]
        self.succeeds("recover", self.server.job, *words, *places, within=within)

    def found(self) -> Found:
        """Return what the server has, except hidden items."""
        return {path: there for path, there in found_on(self.server).items() if not is_hidden(path)}

    def compare(self, differing: int = 0) -> None:
        """Check that the server has what was written; `differing` paths may show another state, but no content may be lost."""
        there = self.found()
        self.check(
            none("paths that differ from what was written", self.expected.differences(there), differing),
            none("contents that are nowhere", self.expected.lost(there)),
        )

    def unmount(self, within: float = _UMOUNT) -> None:
        """Check that `jobfs umount` leaves nothing on this disk, and nothing hidden on the server."""
        began = time.monotonic()
        self.succeeds("umount", self.path, within=within + 2)
        took = time.monotonic() - began
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.mounted.wait_for_end(5)
        self.check(
            at_most("seconds that umount takes", took, within),
            # It would end after some seconds all the same, and has not ended in order.
            equal("calls in flight at the end", self.mounted.log.count("still in flight"), 0),
        )
        sample = self.sampler.take()
        left = {
            "hidden items": sample.hidden,
            "local files": sample.local_files,
            "unsent rows": sample.unsent,
        }
        self.check(*[at_most(f"{what} after umount", number, 0) for what, number in left.items()])


def played(work: Workload, forks: ForkServer, home: Path, **more: Any) -> Row:
    """Play a workload on a stage of its own, and return what came of it; `more` are arguments of Stage. Nothing of it is left."""
    with Stage(work, forks, home, **more) as stage:
        try:
            work.play(stage, **work.arguments)
        except Exception as error:
            if not stage.expired:
                stage.check(equal("the workload", f"ended early: {error!r:.400}", "runs to its end"))
        if stage.expired:
            stage.check(equal("the workload", f"not within {work.seconds:g} s", "runs to its end"))
        stage.check(equal("calls that need the local disk and failed", listed(stage.notes.failed), "none"))
        stage.row.what += f"; at most {stage.sampler.peak}"
    return stage.row

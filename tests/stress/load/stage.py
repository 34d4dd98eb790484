"""The stage of a workload: a server, a mount with a shell's usual limit of descriptors, and what is to be held.

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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tests.stress.report import Check, Row, at_most, equal, in_time, none
from tests.support.forks import ForkedMount, ForkServer
from tests.support.judge import Judge
from tests.support.mounts import detach, environment, is_mounted
from tests.support.waiting import PATIENCE

from jobfs.emulator import Server

from .bounds import ROWS, Bounds, Sampler, standing
from .calls import Calls, listed
from .expected import found_on
from .server import ServerProcess

#: What a login shell has, soft and hard.
DESCRIPTORS = 1024

#: Delays shorter than the defaults, so that a run is not spent waiting for them.
_OPTIONS = {"ttl": "1", "write-back-delay": "0.1", "request-lifetime": "1", "timeout": "10"}

#: Seconds after which tombstones that nobody can need any more are pruned.
_PRUNING = 30.0

#: Seconds that `jobfs umount` may take once all is sent; that calls get to return after their mount was killed.
_UMOUNT, _RETURN = 10.0, 10.0


class Stage:
    """A context. `seconds`: after that long everything is killed. `options` are the mount's flags, with underscores."""

    def __init__(
        self, forks: ForkServer, home: Path, name: str, *, seconds: float, seed: int, pause: float
    ) -> None:
        self.home, self.random = home, random.Random(f"{seed}/{name}")
        self.row = Row(name)
        self.server = ServerProcess(forks, home / "far", seed)
        self.calls, self.expected = Calls(), Judge()
        # Of the server it is told nothing but where it is.
        self.mounted = ForkedMount(forks, cast(Server, self.server), home / "near")
        self.sampler = Sampler(self.server, self.mounted.state, self._pid, pause)
        self.expired = False
        self._lock = threading.Lock()
        self._programs: set[subprocess.Popen[Any]] = set()
        self._disks: list[Path] = []
        self._watch = threading.Timer(seconds, self._expire)

    @property
    def path(self) -> Path:
        """Where the job is mounted."""
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
        self.let_go()
        self.server.stop()
        for disk in self._disks:
            subprocess.run(["umount", "-l", str(disk)], check=False, capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)
        assert not is_mounted(self.path)

    def _expire(self) -> None:
        self.expired = True
        self._kill()

    def _kill(self) -> None:
        """The mount first: then whatever waits for it ends by itself."""
        pid = self._pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        with self._lock:
            programs = list(self._programs)
        for program in programs:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        detach(self.path)

    def _pid(self) -> int | None:
        process = self.mounted.process
        return process.pid if process is not None else None

    def small_disk(self, directory: Path, size: int) -> None:
        """A disk of its own with so many bytes, mounted there until the end; root only."""
        directory.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(directory)]
        subprocess.run(words, check=True, capture_output=True)
        self._disks.append(directory)

    def start(
        self, tree: Mapping[str, bytes | None], *, latency: float, bandwidth: int = 0, **options: Any
    ) -> None:
        """Seeds, serves with `latency` (ms) and `bandwidth` (bytes a second), and mounts."""
        self.server.seed(tree)
        self.expected.put_all(tree)
        for path in tree:
            for end in range(1, path.count("/") + 1):
                self.expected.put("/".join(path.split("/")[:end]), None)
        self.server.start(latency=latency, bandwidth=bandwidth)
        self.mounted.options = _OPTIONS | {name.replace("_", "-"): value for name, value in options.items()}
        self.mounted.mount()
        os.listdir(self.path)
        self.baseline = self.sampler.take()
        assert min(self.baseline.descriptors, self.baseline.threads, self.baseline.memory) > 0, self.baseline
        self.sampler.start()

    def begin(self, *command: str | Path, **more: Any) -> subprocess.Popen[bytes]:
        """Starts a program, which is killed with the mount if it has not ended before."""
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True, **more}
        program = subprocess.Popen(list(map(str, command)), env=environment(self.mounted.home, None), **given)
        with self._lock:
            self._programs.add(program)
        return program

    def let_go(self) -> None:
        """Waits for the end of all programs, which is near."""
        with self._lock:
            programs, self._programs = self._programs, set()
        for program in programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(_RETURN)

    def run(self, *command: str | Path, cwd: Path | None = None, what: str = "") -> float:
        """Runs a program to its end and holds it to exit code 0; its seconds."""
        name = what or Path(command[0]).name
        began = time.monotonic()
        # Not cwd: that is changed by the child before its exec, which the parent waits for.
        place = ["env", "-C", str(cwd)] if cwd else []
        output = self.home / "program"
        with output.open("wb") as file:
            program = self.begin(*place, *command, stdout=file, stderr=file)
            code = program.wait()
        lines = output.read_text(errors="replace").splitlines()
        with self._lock:
            self._programs.discard(program)
        told = f"ends with {code}, says {len(lines)} lines: {lines[0][:120]}" if code else "ends with 0"
        self.check(Check(name, told, "ends with 0", held=code == 0))
        return time.monotonic() - began

    def output(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, and return its exit code and outputs."""
        program = self.begin(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        stdout, stderr = program.communicate()
        with self._lock:
            self._programs.discard(program)
        return subprocess.CompletedProcess(program.args, program.returncode, stdout, stderr)

    def together(self, *tasks: Callable[[], None]) -> None:
        """Runs them at the same time; the first error of one is raised when all have ended."""
        with ThreadPoolExecutor(len(tasks)) as pool:
            try:
                for task in [pool.submit(task) for task in tasks]:
                    task.result()
            except KeyboardInterrupt:
                self._expire()  # else they go on, and are waited for
                raise

    def check(self, *checks: Check) -> None:
        """Notes a bound and whether it held."""
        self.row.checks += checks

    def failures(self) -> None:
        """Holds all calls to what they promise: those that need the local disk only never fail."""
        failed = self.calls.failed
        self.check(equal("calls that need the local disk and failed", listed(failed), "none"))

    def answers(self, seconds: float = 2.0) -> None:
        """Holds `jobfs status` to an answer within so many seconds."""
        began, failed = time.monotonic(), ""
        try:
            self.mounted.status()
        except Exception as error:
            failed = f"{type(error).__name__} after {time.monotonic() - began:.1f} s: {error}"
        self.check(in_time("seconds until status answers", time.monotonic() - began, seconds, failed))

    def rest(self, within: float) -> None:
        """Waits until everything is sent and cleaned up, and holds it to that."""
        # A listing is what shows a leftover of a create whose answer was lost.
        took = self._listed_until(lambda: self.sampler.take().at_rest, within)
        late = "" if self.sampler.now.at_rest else f"not within {took:.0f}: {self.sampler.now}"
        self.check(in_time("seconds until all is sent and cleaned up", took, max(took, within), late))

    def finish(self, bounds: Bounds, within: float = PATIENCE, umount: float = _UMOUNT) -> None:
        """The end of most workloads: all comes to rest, the bounds hold, nothing is lost, and it unmounts in good order."""
        self.settle(bounds, within)
        self.compare(bounds.flipped + bounds.conflicts)
        self.unmount(umount)

    def settle(self, bounds: Bounds, within: float = PATIENCE) -> None:
        """Wait until everything is sent and cleaned up, and check the bounds."""
        self.failures()
        self.rest(within)
        items = len(self.server.rows())
        # A table with more rows than that is pruned after a listing.
        self._listed_until(
            lambda: max(self.sampler.take().tables.values(), default=0) <= items + ROWS, _PRUNING
        )
        rest = self.sampler.take()
        self.check(*standing(self.sampler.peak, rest, self.baseline, items, bounds))

    def _listed_until(self, reached: Callable[[], bool], within: float) -> float:
        """Waits for that, with a listing each second; the seconds it took."""
        began = looked = time.monotonic()
        while not reached() and not self.expired and (now := time.monotonic()) - began <= within:
            if now - looked > 1 and self._pid() is not None:
                looked = now
                with suppress(OSError):
                    os.listdir(self.path)
            time.sleep(0.05)
        return time.monotonic() - began

    def succeeds(self, *words: str | Path, within: float) -> bool:
        """Holds another jobfs command to exit code 0 within so many seconds."""
        try:
            done = self.mounted.jobfs(*words, timeout=within)
            found = f"ends with {done.returncode} {done.stdout}{done.stderr}"
        except subprocess.TimeoutExpired:
            found = f"not within {within:g} s"
        held = found.startswith("ends with 0 ")
        self.check(Check(str(words[0]), found[:200], "ends with 0", held=held))
        return held

    def recover(self, within: float) -> None:
        """`jobfs recover` sends what is left, and ends with 0 within so many seconds."""
        words = ["--base-url", self.server.url, "--request-lifetime", _OPTIONS["request-lifetime"]]
        places: list[str | Path] = ["--state-dir", self.mounted.state, "--cache-dir", self.mounted.cache]
        self.succeeds("recover", self.server.job, *words, *places, within=within)

    def compare(self, differing: int = 0) -> None:
        """Holds the server to what was written; `differing` paths may show another state, but no content may be lost."""
        there = found_on(self.server)
        found, lost = self.expected.differences(there), self.expected.lost(there)
        text = f"{len(found)}, such as {'; '.join(found[:3])}" if found else "0"
        bound = f"at most {differing}" if differing else "0"
        self.check(
            Check("paths that differ from what was written", text, bound, held=len(found) <= differing),
            none("contents that are nowhere", lost),
        )

    def unmount(self, within: float = _UMOUNT) -> None:
        """`jobfs umount`, and nothing is left on this disk or hidden on the server."""
        began = time.monotonic()
        ended = self.succeeds("umount", self.path, within=within + 2)
        took = time.monotonic() - began
        if ended:
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


@dataclass(frozen=True)
class Workload:
    """`play` gets a stage on which nothing has begun; `seconds` is when it is broken off."""

    name: str
    play: Callable[..., None]
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)


def played(workload: Workload, forks: ForkServer, home: Path, *, seed: int = 0, pause: float = 0.2) -> Row:
    """Plays a workload on a stage of its own, and says what came of it; nothing of it is left."""
    stage = Stage(forks, home, workload.name, seconds=workload.seconds, seed=seed, pause=pause)
    stage.row.what = str(workload.arguments)
    with stage:
        try:
            workload.play(stage, **workload.arguments)
        except Exception as error:
            if not stage.expired:
                stage.check(equal("the workload", f"ended early: {error!r:.400}", "runs to its end"))
                stage.failures()
        if stage.expired:
            stage.check(equal("the workload", f"not within {workload.seconds:g} s", "runs to its end"))
        stage.row.what += f"; at most {stage.sampler.peak}"
    return stage.row

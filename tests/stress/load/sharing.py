"""Files that the job appends to, rewrites and renames while programs append to them, rewrite and read them."""

from __future__ import annotations

import itertools
import random
import signal
import time
from contextlib import suppress
from functools import partial
from typing import Any

from tests.stress.report import none
from tests.support.interferences import Interference, Scene, named
from tests.support.programs import PROGRAMS, Program

from jobfs.emulator import Rule

from .bounds import Bounds
from .calls import RefusedError, listed
from .expected import found_on
from .lines import JOB, Lines, is_copy
from .server import RemoteJob
from .stage import Stage
from .weather import ANSWERS_A_CONFLICT, LATE, SHARE

#: The file in each directory. The one in the last directory is large, and keeps its name.
_FILE = "build.log"
#: Lines at first, about 200 bytes each; of the large file.
_FIRST, _FIRST_LARGE = 20, 8000
#: Copies of the large file that its reader would not need: it has read a version that it did not open (statement 3.17).
_LARGE_COPIES = 2
#: The writer of these.
_BEFORE = "before"
#: The share of programs after which their file rests for up to one and a half TTLs: its bytes are sent, and the job's are seen.
_RESTS = 0.3
#: The longest pause of the job between two changes, in seconds.
_PAUSE = 0.3


#: Those that lose no line by themselves, though calls fail and the job writes at any moment.
_PROGRAMS = [each for each in PROGRAMS if each.reliable and not each.slow and not each.needs]
#: What a program does between its read and its save.
_WAITS = (":", "sleep 0.2")


def shared(
    stage: Stage,
    storm: float,
    latency: float,
    ttl: float,
    files: int = 6,
    *,
    calm: bool = False,
    **options: Any,
) -> None:
    """The job and programs write the same files: no line is lost, no read is torn, and no copy is kept without a cause."""
    homes = [f"d{number}" for number in range(files)]
    lines = Lines()
    tree = {f"{home}/{_FILE}": _first(lines, home, large=home == homes[-1]) for home in homes}
    stage.start(tree, latency=latency, ttl=ttl, timeout=5, **options)
    if not calm:
        stage.server.break_with(Rule("weather", rate=SHARE, delay=LATE))
    end = time.monotonic() + storm
    job = Job(stage, lines, homes)
    people = [User(stage, lines, home, random.Random(stage.random.random())) for home in homes]
    stage.together(partial(job.work, end), *[partial(user.work, end) for user in people])
    stage.server.mend()
    needless = _LARGE_COPIES if calm else max(2, -(-stage.server.lost_answers() // ANSWERS_A_CONFLICT))
    stage.settle(Bounds(files, files, conflicts=lines.job_writes + needless), within=30)
    found = found_on(stage.server)
    stage.row.what += (
        f"; {stage.calls.done:,} programs, failed {listed(stage.calls.told)}; {lines.reads:,} reads; "
        f"{lines.acknowledged:,} lines, {lines.job_writes:,} of the job; {sum(map(is_copy, found)):,} copies"
    )
    stage.check(
        *lines.judge(found, needless),
        none("programs that failed without a fault", _unexpected(stage) if calm else []),
    )
    stage.unmount()


#: Between the job's rename of the file and its next write; statements 2.15 and 3.17.
_EXPECTED = {"No such file or directory", "No such device", "Stale file handle", "SIGBUS"}


def _unexpected(stage: Stage) -> list[str]:
    return [failure for failure in stage.calls.told if failure.partition(": ")[2] not in _EXPECTED]


def _first(lines: Lines, home: str, *, large: bool) -> bytes:
    first = [lines.new(home, _BEFORE) for _ in range(_FIRST_LARGE if large else _FIRST)]
    lines.acknowledge(*first)
    return b"".join(line + b"\n" for line in first)


class User:
    """Runs one program after another on the file in its directory; the job is the only other writer there."""

    def __init__(self, stage: Stage, lines: Lines, home: str, chance: random.Random) -> None:
        self._stage, self._lines, self._home, self._random = stage, lines, home, chance
        self._ttl = float(stage.mounted.options["ttl"])

    def work(self, end: float) -> None:
        """Run programs until `end` (monotonic)."""
        while time.monotonic() < end and not self._stage.expired:
            program = self._random.choice(_PROGRAMS)
            with suppress(RefusedError), self._stage.calls.of(program.name, local=False):
                self._run(program)
            if self._random.random() < _RESTS:
                time.sleep(self._random.uniform(0, 1.5 * self._ttl))

    def _run(self, program: Program) -> None:
        path = f"{self._home}/{_FILE}"
        lines = [self._lines.new(self._home, "program") for _ in range(program.writes * program.lines)]
        words = program.command(
            self._stage.path / path, *[line.decode() for line in lines], wait=self._random.choice(_WAITS)
        )
        done = self._stage.output(*words)
        if program.writes:
            self._lines.acknowledge(*done.stdout.splitlines())
        if done.returncode:
            raise OSError(_reason(done.returncode, done.stderr))
        if not program.writes:
            # Statement 3.17: once a file is open, `fstat` may show another version's size than is read.
            self._lines.read(f"{path} ({program.name})", done.stdout, may_be_cut=program.by_size)


def _reason(code: int, stderr: bytes) -> str:
    if code < 0:
        return signal.Signals(-code).name
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return last.partition("] ")[2].partition(": ")[0] or last.rpartition(": ")[2] or f"exit code {code}"


#: What the job does to the files, and how often: no act removes a line, or writes over what the job has not read.
_ACTS = {
    named("job", name): share
    for name, share in (("appends", 8), ("writes", 3), ("renames over", 2), ("moves away", 1))
}


class Job:
    """Changes the files of all directories on the server; it replaces only what it has read."""

    def __init__(self, stage: Stage, lines: Lines, homes: list[str]) -> None:
        self._stage, self._lines, self._homes = stage, lines, homes
        self._random = random.Random(stage.random.random())
        self._moves = itertools.count(1)

    def work(self, end: float) -> None:
        """Change files until `end` (monotonic)."""
        while time.monotonic() < end and not self._stage.expired:
            (act,) = self._random.choices(list(_ACTS), list(_ACTS.values()))
            home = self._random.choice(self._homes)
            if act.writes or home != self._homes[-1]:
                self._play(act, home)
            time.sleep(self._random.uniform(0, _PAUSE))

    def _play(self, act: Interference, home: str) -> None:
        """What replaces a file has the new line at its start: all other bytes move."""
        path, job = f"{home}/{_FILE}", RemoteJob(self._stage.server)
        line = self._lines.new(home, JOB)
        scene = Scene(path, job, lambda before: line + b"\n" + before, f"{path}.{next(self._moves)}")
        try:
            act.act(scene)
        except KeyError:
            job.remove_drafts()
        else:
            if act.writes:
                self._lines.acknowledge(line)

"""Files that the job appends to, rewrites and renames while programs append to them, rewrite and read them."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from tests.stress.report import at_least, none
from tests.support.interferences import Interference, Scene, named
from tests.support.judge import second_version
from tests.support.programs import PROGRAMS, Program

from .bounds import Bounds
from .calls import RefusedError, listed
from .lines import JOB, Lines
from .stage import Stage
from .weather import needless_copies, strike

#: The file in each directory. The one in the last directory is large, and keeps its name.
_FILE = "build.log"
#: Lines at first; of the large file.
_FIRST, _FIRST_LARGE = 20, 8000
#: Bytes of a line, about; and who wrote the first ones.
_LENGTH, _BEFORE = 220, "before"
#: Copies of the large file that its reader would not need: it has read a version that it did not open (statement 3.17).
_LARGE_COPIES = 2
#: The share of programs after which their file rests for up to one and a half TTLs: its bytes are sent, and the job's are seen.
_RESTS = 0.3
#: The longest pause of the job between two changes, in seconds.
_PAUSE = 0.3
#: The share of downloads that break off early, in the middle and late.
_CUT = 0.1

#: Those that lose no line by themselves, though calls fail and the job writes at any moment.
_PROGRAMS = [each for each in PROGRAMS if each.reliable and not each.slow and not each.needs]
#: Programs whose output is the file, or its beginning; cp checks more than others do.
_READERS = [each for each in PROGRAMS if not each.writes and (each.reliable or each.name == "cp")]
#: What a program does between its read and its save.
_WAITS = (":", "sleep 0.2")
#: What the job does to the files, and how often: no act removes a line.
_ACTS = {
    named("job", name): share
    for name, share in (("appends", 8), ("writes", 3), ("renames over", 2), ("moves away", 1))
}
#: Of programs, between the job's rename of the file and its next write; statements 2.15 and 3.17.
_EXPECTED = {"No such file or directory", "No such device", "Stale file handle", "SIGBUS"}


def shared(
    stage: Stage, storm: float, latency: float, ttl: float, files: int = 6, *, calm: bool = False
) -> None:
    """The job and programs write the same files: no line is lost, no read is torn, and no copy is kept without a cause."""
    sizes = [*[_FIRST] * (files - 1), _FIRST_LARGE]
    lines = _started(stage, sizes, latency=latency, ttl=ttl, timeout=5)
    if not calm:
        strike(stage)
    _work(stage, lines, storm, _PROGRAMS, _ACTS)
    needless = _LARGE_COPIES if calm else needless_copies(stage.server.log)
    _judge(stage, lines, Bounds(files, files, conflicts=lines.job_writes + needless), needless)
    unexpected = [failed for failed in stage.notes.refused if failed.partition(": ")[2] not in _EXPECTED]
    stage.check(none("programs that failed without a fault", unexpected if calm else []))
    stage.unmount()


def rewritten(stage: Stage, storm: float, latency: float, files: int, size: int) -> None:
    """The job rewrites files in place while programs read them over lines that break: each read is of one version, or fails."""
    sizes = [size // _LENGTH] * files
    lines = _started(stage, sizes, latency=latency, ttl=0.5, bandwidth=files * size)
    for at in (0.1, 0.5, 0.9):
        stage.act("network", "cuts an answer", on="download", rate=_CUT, at=at)
    _work(stage, lines, storm, _READERS, {named("job", "writes"): 1})
    stage.server.set(bandwidth=0)
    stage.check(at_least("reads that got all of a version", lines.reads, files))
    _judge(stage, lines, Bounds(open_files=files))
    stage.unmount()


def _started(stage: Stage, sizes: Sequence[int], **options: Any) -> Lines:
    """Start with a file of so many lines in each directory."""
    lines, tree = Lines(), dict[str, bytes]()
    for number, size in enumerate(sizes):
        first = [lines.new(f"d{number}", _BEFORE) for _ in range(size)]
        lines.acknowledge(*first)
        tree[f"d{number}/{_FILE}"] = b"".join(line + b"\n" for line in first)
    stage.notes.local = ()
    stage.start(tree, **options)
    return lines


def _work(
    stage: Stage, lines: Lines, storm: float, programs: Sequence[Program], acts: Mapping[Interference, int]
) -> None:
    """Let one person run programs in each directory, and the job change all files; then end all faults."""
    end = time.monotonic() + storm
    people = [User(stage, lines, home, programs) for home in sorted(os.listdir(stage.path))]
    stage.together(partial(_change, stage, lines, acts, end), *[partial(user.work, end) for user in people])
    stage.server.faults.clear()


def _judge(stage: Stage, lines: Lines, bounds: Bounds, needless: int = 0) -> None:
    stage.settle(bounds, within=30)
    found = stage.found()
    copies = sum(second_version(path) is not None for path in found)
    stage.row.what += (
        f"; {stage.notes.done:,} programs, failed {listed(stage.notes.refused)}; {lines.reads:,} whole reads; "
        f"{lines.acknowledged:,} lines, {lines.job_writes:,} of the job; {copies:,} copies"
    )
    stage.check(*lines.judge(found, needless))


class User:
    """Runs one program after another on the file in its directory; the job is the only other writer there."""

    def __init__(self, stage: Stage, lines: Lines, home: str, programs: Sequence[Program]) -> None:
        self._stage, self._lines, self._home, self._programs = stage, lines, home, programs
        self._random = random.Random(stage.random.random())
        self._scratch = stage.home / f"scratch-{home}"
        self._ttl = float(stage.mounted.options["ttl"])

    def work(self, end: float) -> None:
        """Run programs until `end` (monotonic)."""
        while time.monotonic() < end and not self._stage.expired:
            program = self._random.choice(self._programs)
            with suppress(RefusedError), self._stage.notes.of(program.name):
                self._run(program)
            if self._random.random() < _RESTS:
                time.sleep(self._random.uniform(0, 1.5 * self._ttl))

    def _run(self, program: Program) -> None:
        path = f"{self._home}/{_FILE}"
        lines = [self._lines.new(self._home, "program") for _ in range(program.writes * program.lines)]
        words = program.command(
            self._stage.path / path, *[line.decode() for line in lines],
            wait=self._random.choice(_WAITS), scratch=self._scratch,
        )  # fmt: skip
        done = self._stage.output(*words)
        if program.writes:
            self._lines.acknowledge(*done.stdout.splitlines())
        else:
            # Statement 3.17: once a file is open, `fstat` may show another version's size than is read.
            may_be_cut = bool(program.by_size or done.returncode)
            self._lines.read(f"{path} ({program.name})", done.stdout, may_be_cut=may_be_cut)
        if done.returncode:
            raise OSError(_reason(done.returncode, done.stderr))


def _reason(code: int, stderr: bytes) -> str:
    if code < 0:
        return signal.Signals(-code).name
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return last.partition("] ")[2].partition(": ")[0] or last.rpartition(": ")[2] or f"exit code {code}"


def _change(stage: Stage, lines: Lines, acts: Mapping[Interference, int], end: float) -> None:
    """Let the job change files until `end` (monotonic); what replaces a file has the new line at its start: all bytes move."""
    homes = sorted(os.listdir(stage.path))
    numbers = itertools.count()
    while time.monotonic() < end and not stage.expired:
        (act,) = stage.random.choices(list(acts), list(acts.values()))
        home = stage.random.choice(homes if act.writes else homes[:-1])
        line, path = lines.new(home, JOB), f"{home}/{_FILE}"
        scene = Scene(path, stage.server.store, partial(_add_first, line), f"{path}.{next(numbers)}")
        with stage.server.store.lock:
            if scene.is_there or not act.needs_file:
                act.act(scene)
        if act.writes:
            lines.acknowledge(line)
        time.sleep(stage.random.uniform(0, _PAUSE))


def _add_first(line: bytes, before: bytes) -> bytes:
    return line + b"\n" + before

"""Many files saved again, few files saved many times, and files that the job rewrites while they are read."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path

from tests.stress.report import at_least, at_most, none
from tests.support.judge import State
from tests.support.programs import PROGRAMS

from jobfs.emulator import Rule

from .bounds import MEMORY, Bounds
from .calls import RefusedError
from .expected import tree_of
from .stage import Stage

#: Directories at the least, and files of each at the most: so many paths fit on a command line.
_DIRECTORIES, _FILES = 8, 100
#: Tombstones are kept for twenty times so many seconds, and the bound is for those of the latest saves.
_SHORT = 0.25
#: The share of downloads that break off early, in the middle and late.
_CUT = 0.1


def source(number: int) -> bytes:
    """A small file of a program, each another."""
    return b"old name = %d\n" % number * (5 + number % 40)


def names(files: int, root: str = "src") -> list[str]:
    """So many paths, one after the other in another directory."""
    directories = max(_DIRECTORIES, files // _FILES)
    return [f"{root}/d{number % directories:03}/f{number:05}.txt" for number in range(files)]


def tree(files: int, root: str = "src") -> dict[str, bytes | None]:
    """So many files."""
    return {path: source(number) for number, path in enumerate(names(files, root))}


def put_on_disk(directory: Path, tree: Mapping[str, State]) -> Path:
    """Makes these files and directories on the local disk, below `directory`."""
    for path, content in tree.items():
        place = directory / path
        (place if content is None else place.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            place.write_bytes(content)
    return directory


def sed(stage: Stage, files: int, latency: float) -> None:
    """`sed -i` over many files: each is written anew beside, and renamed over."""
    there = tree(files)
    stage.start(there, latency=latency, request_lifetime=_SHORT)
    here = put_on_disk(stage.home / "here", there)
    for _, group in itertools.groupby(sorted(there), key=lambda path: path.rpartition("/")[0]):
        command = ["sed", "-i", "s/old/new and longer/", *group]
        subprocess.run(command, cwd=here, check=True)
        stage.run(*command, cwd=stage.path, what="sed")
    stage.expected.put_all(tree_of(here))
    stage.finish(Bounds(files=files), within=10 + files / 25)


def day(stage: Stage, saves: int, latency: float, files: int = 20, at_once: int = 10) -> None:
    """A day's worth of saves to a few files in fast motion, each with fsync. Neither memory nor journal grows with the saves."""
    paths = names(files)
    stage.start(tree(files), latency=latency, request_lifetime=_SHORT)
    early: list[int] = []

    def work(mine: list[str], number: int) -> None:
        for turn, path in zip(range(number), itertools.cycle(mine), strict=False):
            data = b"save %d of %s\n" % (turn, path.encode()) * (1 + turn % 30)
            stage.calls.save(stage.path / path, data)
            stage.expected.put(path, data)
            if turn == number // 5:
                early.append(stage.sampler.take().memory)

    stage.together(*[partial(work, paths[one::at_once], saves // at_once) for one in range(at_once)])
    grown = stage.sampler.take().memory - max(early)
    stage.check(
        at_most("MB that memory grows by after the first fifth of the saves", grown / 1e6, MEMORY / 3e6)
    )
    stage.finish(Bounds(), within=15)


def rewritten(stage: Stage, files: int, size: int, writes: int, latency: float, readers: int = 6) -> None:
    """The job rewrites files in place while programs read them over lines that break: each read is of one version, or fails."""
    paths = [f"data/r{number:02}.bin" for number in range(files)]
    versions = dict.fromkeys(paths, 0)
    stage.start(
        {path: _version(path, 0, size) for path in paths}, latency=latency, bandwidth=files * size, ttl=0.5
    )
    stage.server.break_with(*[Rule("cut", "download", rate=_CUT, at=at) for at in (0.1, 0.5, 0.9)])
    done = threading.Event()
    people = [_Reader(stage, paths, size, turn) for turn in range(readers)]

    def job() -> None:
        try:
            for turn in range(writes):
                path = stage.random.choice(paths)
                versions[path] += 1
                stage.server.write(path, _version(path, versions[path], size))
                done.wait(0.05 * (turn % 4))
                if stage.expired:
                    return
        finally:
            done.set()

    stage.together(job, *[partial(reader.work, done) for reader in people])
    stage.server.mend()
    stage.server.set(bandwidth=0)
    for path, version in versions.items():
        stage.expected.put(path, _version(path, version, size))
    wrong = [text for reader in people for text in reader.wrong]
    stage.check(
        none("reads of more versions than one", wrong),
        at_least("reads that got all of a version", sum(reader.whole for reader in people), readers),
    )
    stage.finish(Bounds(open_files=readers))


def _version(path: str, number: int, size: int) -> bytes:
    """What a version of a file has: of about this size, some of the same, and each line says which it is."""
    line = f"{path} version {number:06}\n".encode()
    return line * (size // len(line) + number % 3)


#: Programs whose output is the file, or its beginning; cp checks more than others do.
_READERS = [each for each in PROGRAMS if not each.writes and (each.reliable or each.name == "cp")]


class _Reader:
    """Reads files: by programs, here and there. `whole`: how often it got all that it wanted."""

    def __init__(self, stage: Stage, paths: list[str], size: int, turn: int) -> None:
        self._stage, self._paths, self._size = stage, paths, size
        self._copy = stage.home / f"copy{turn}"
        ways = (self._run, self._run, self._here_and_there)
        self._ways = itertools.islice(itertools.cycle(ways), turn, None)
        self.whole = 0
        self.wrong: list[str] = []

    def work(self, done: threading.Event) -> None:
        """Until the job is done, and once more."""
        while not self._stage.expired:
            last = done.is_set()
            with suppress(RefusedError):
                next(self._ways)(self._stage.random.choice(self._paths))
            if last:
                return

    def _run(self, path: str) -> None:
        program = self._stage.random.choice(_READERS)
        with self._stage.calls.of(program.name, local=False):
            done = self._stage.output(*program.command(self._stage.path / path, scratch=self._copy))
        # Statement 3.17: once a file is open, `fstat` may show another version's size than is read.
        self._judge(path, [(0, done.stdout)], whole=not (done.returncode or program.by_size))

    def _here_and_there(self, path: str) -> None:
        pieces: list[tuple[int, bytes]] = []
        with self._stage.calls.of("read", local=False), FileIO(self._stage.path / path) as file:
            try:
                for _ in range(6):
                    place = self._stage.random.randrange(self._size - 4096)
                    pieces.append((place, os.pread(file.fileno(), 4096, place)))
            finally:
                self._judge(path, pieces)
            self.whole += 1

    def _judge(self, path: str, pieces: list[tuple[int, bytes]], *, whole: bool = False) -> None:
        """All pieces, bytes at their places, are of one version, and if they are the `whole` nothing is missing."""
        found = {int(number) for _, data in pieces for number in re.findall(rb"version (\d{6})\n", data)}
        if len(found) == 1:
            (number,) = found
            there = _version(path, number, self._size)
            is_whole = len(pieces[0][1]) == len(there)
            same = all(there[place : place + len(data)] == data for place, data in pieces)
            if same and (is_whole or not whole):
                self.whole += is_whole
                return
        if found or whole:
            sizes = [len(data) for _, data in pieces]
            self.wrong.append(f"{path}: of versions {sorted(found)}, {sizes} bytes")


def read_back(stage: Stage, paths: list[str]) -> None:
    """Reads files through the mount and holds each to what it has to be."""
    wrong = []
    for path in paths:
        try:
            with stage.calls.of("read"):
                data = Path(stage.path / path).read_bytes()
        except RefusedError:
            continue
        if data not in stage.expected.at(path):
            wrong.append(path)
    stage.check(at_most("files that read as what nobody wrote", len(wrong), 0))

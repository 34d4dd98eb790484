"""Many files saved again, and few files saved many times."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

from .bounds import MEMORY, Bounds, at_most
from .calls import RefusedError
from .expected import tree_of
from .stage import Stage

#: Directories at the least, and files of each at the most: so many paths fit on a command line.
_DIRECTORIES, _FILES = 8, 100


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


def sed(stage: Stage, files: int, latency: float) -> None:
    """`sed -i` over many files: each is written anew beside, and renamed over."""
    there = tree(files)
    stage.start(there, latency=latency)
    here = stage.home / "here"
    for path, content in there.items():
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes(content or b"")
    with stage.doing(f"sed -i over {files:,} files at {latency:g} ms", files):
        for _, group in itertools.groupby(sorted(there), key=lambda path: path.rpartition("/")[0]):
            command = ["sed", "-i", "s/old/new and longer/", *group]
            subprocess.run(command, cwd=here, check=True)
            stage.run(*command, cwd=stage.path, what="sed")
    stage.expected.put_all(tree_of(here))
    stage.finish(Bounds(files=files), within=10 + files / 25)


def formatted(stage: Stage, files: int, latency: float, at_once: int = 8) -> None:
    """A formatter's rewrite of many files, several at once: a temporary file, fsync, rename over."""
    stage.start(tree(files), latency=latency)
    todo = iter(names(files))

    def work() -> None:
        for path in todo:
            target = stage.path / path
            draft = target.with_name(f"{target.name}.tmp")
            data = b"formatted " + target.read_bytes()
            stage.calls.save(draft, data)
            with stage.calls.of("rename over"):
                os.rename(draft, target)
            stage.expected.put(path, data)

    with stage.doing(f"{files:,} files rewritten by {at_once} formatters at {latency:g} ms", files):
        stage.together(*[work] * at_once)
    stage.finish(Bounds(files=files), within=10 + files / 25)


def day(stage: Stage, saves: int, latency: float, files: int = 20, at_once: int = 10) -> None:
    """A day's worth of saves to a few files in fast motion, each with fsync. Neither memory nor journal grows with the saves."""
    paths = names(files)
    stage.start(tree(files), latency=latency)
    early: list[int] = []

    def work(mine: list[str], number: int) -> None:
        for turn, path in zip(range(number), itertools.cycle(mine), strict=False):
            data = b"save %d of %s\n" % (turn, path.encode()) * (1 + turn % 30)
            stage.calls.save(stage.path / path, data)
            stage.expected.put(path, data)
            if turn == number // 5:
                early.append(stage.sampler.take().memory)

    with stage.doing(f"{saves:,} saves with fsync to {files} files at {latency:g} ms", saves):
        stage.together(
            *[lambda mine=paths[one::at_once]: work(mine, saves // at_once) for one in range(at_once)]
        )
    grown = stage.sampler.take().memory - max(early)
    stage.check(
        at_most("MB that memory grows by after the first fifth of the saves", grown / 1e6, MEMORY / 3e6)
    )
    stage.finish(Bounds(), within=15)


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

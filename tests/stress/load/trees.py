"""Trees of files: saved again, copied in, unpacked, removed and watched; and few files that are saved many times."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.stress.report import at_least, at_most, equal, none
from tests.support.files import on_disk
from tests.support.waiting import eventually
from tests.support.watching import watching

from .bounds import Bounds
from .stage import Stage

#: Directories at the least, and files of each at the most: so many paths fit on a command line.
_DIRECTORIES, _FILES = 8, 100
#: Tombstones are kept for twenty times so many seconds, and the bound is for those of the latest saves.
_SHORT = 0.25
#: Seconds that a look at another file may wait for the kernel's own work on events, on a machine with other work.
_WAIT = 0.2
#: Files that the job makes in one second, so that one listing shows many of them.
_RATE = 300


def source(number: int) -> bytes:
    """Return a small file of a program, each another."""
    return b"old name = %d\n" % number * (5 + number % 40)


def tree(files: int, root: str = "src") -> dict[str, bytes]:
    """Return so many files, one after the other in another directory."""
    directories = max(_DIRECTORIES, files // _FILES)
    return {f"{root}/d{n % directories:03}/f{n:05}.txt": source(n) for n in range(files)}


def put_on_disk(directory: Path, tree: Mapping[str, bytes]) -> Path:
    """Make these files on the local disk, below `directory`."""
    for path, content in tree.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def sed(stage: Stage, files: int, latency: float) -> None:
    """`sed -i` over many files: each is written again beside, and renamed over."""
    there = tree(files)
    stage.start(there, latency=latency, request_lifetime=_SHORT)
    here = put_on_disk(stage.home / "here", there)
    for _, group in itertools.groupby(sorted(there), key=lambda path: path.rpartition("/")[0]):
        command = ["sed", "-i", "s/old/new and longer/", *group]
        subprocess.run(command, cwd=here, check=True)
        stage.run(*command, cwd=stage.path)
    stage.expected.put_all(on_disk(here))
    stage.finish(Bounds(files=files), within=10 + files / 25)


def day(stage: Stage, saves: int, latency: float, files: int = 20, at_once: int = 10) -> None:
    """A day's worth of saves to a few files in fast motion, each with fsync. Neither memory nor journal grows with the saves."""
    there = tree(files)
    stage.start(there, latency=latency, request_lifetime=_SHORT)
    early: list[int] = []

    def work(mine: list[str], number: int) -> None:
        for turn, path in zip(range(number), itertools.cycle(mine), strict=False):
            data = b"save %d of %s\n" % (turn, path.encode()) * (1 + turn % 30)
            stage.calls.save(path, data, sync=True)
            stage.expected.put(path, data)
            if turn == number // 5:
                early.append(stage.sampler.take().memory)

    stage.together(*[partial(work, [*there][one::at_once], saves // at_once) for one in range(at_once)])
    grown, limit = stage.sampler.take().memory - max(early), stage.memory / 3
    stage.check(
        at_most("MB that memory grows by after the first fifth of the saves", grown / 1e6, limit / 1e6)
    )
    stage.finish(Bounds(), within=15)


def read_back(stage: Stage, paths: Iterable[str]) -> None:
    """Read files through the mount, and check that each is what it must be."""
    wrong = [path for path in paths if stage.calls.look(path) not in stage.expected.at(path)]
    stage.check(none("files that read as what nobody wrote", wrong))


def copied(stage: Stage, files: int, latency: float) -> None:
    """`cp -r` of many files, then `rm -rf` of them once the server has all."""
    here = put_on_disk(stage.home / "here", tree(files, "tree"))
    stage.start({"kept.txt": b"kept"}, latency=latency)
    stage.run("cp", "-r", here / "tree", stage.path)
    stage.rest(10 + files / 25)
    stage.expected.put_all(on_disk(here))
    stage.compare()
    stage.run("rm", "-rf", "tree", cwd=stage.path)
    for path in on_disk(here):
        stage.expected.forget(path)
    stage.finish(Bounds(files=files), within=10 + files / 50)


def removed(stage: Stage, directories: int, files: int, beside: int, at_once: int, latency: float) -> None:
    """`rm -rf` of deep trees, some at once, beside other files: no error, nothing left, and few requests."""
    trees = [f"tree{number}" for number in range(at_once)]
    branches = max(1, directories // (4 * at_once))  # of four directories, one in the other
    places = [f"{top}/a{number}/b/c/d" for top in trees for number in range(branches)]
    there: dict[str, bytes | None] = {f"kept/f{number}": b"kept" for number in range(beside)}
    made = {f"{places[number % len(places)]}/f{number}": b"goes" for number in range(files)}
    stage.start({**there, **dict.fromkeys(places), **made}, latency=latency)
    stage.run("ls", "-lR", cwd=stage.path)
    stage.server.log.clear()
    began = time.monotonic()
    commands = "".join(f"rm -rf {top} & p{number}=$!; " for number, top in enumerate(trees))
    waits = " && ".join(f"wait $p{number}" for number in range(at_once))
    stage.run("sh", "-c", commands + waits, cwd=stage.path)
    stage.check(equal("trees that are shown afterwards", sorted(os.listdir(stage.path)), ["kept"]))
    stage.rest(15 + directories / 10)
    took = time.monotonic() - began
    for path in (*places, *made):
        for end in range(1, path.count("/") + 2):
            stage.expected.forget("/".join(path.split("/")[:end]))
    single = sum(map(stage.server.log.count, ("find", "get", "update", "delete")))
    pages = 1 + (beside + files + 4 * len(places)) // 99
    stage.check(
        at_most("requests but for lists", single, 3 * (4 * len(places) + at_once) + 2 * files + 20),
        at_most("pages of lists", stage.server.log.count("list"), (2 * took + 4) * pages),
    )
    # Those that were removed stand under hidden names until the next listing.
    stage.finish(Bounds(files=files, removed=4 * len(places)))


def unpacked(stage: Stage, files: int, latency: float) -> None:
    """`tar x` of many small files over a line of high latency; none is sent before all are there, as where tar is much faster."""
    here = put_on_disk(stage.home / "here", tree(files, "tree"))
    archive = stage.home / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(here / "tree", "tree")
    stage.start({}, latency=latency, write_back_delay=300)
    stage.run("tar", "-xf", archive, cwd=stage.path)
    stage.expected.put_all(on_disk(here))
    within = 15 + 4 * files * latency / 1000 / 16
    stage.succeeds("flush", stage.path, within=within)
    stage.finish(Bounds(files=files))


def watched(stage: Stage, files: int, directories: int, latency: float) -> None:
    """Watchers see what the job makes, others' `stat` continues, and while nobody watches there are no requests."""
    stage.start({f"d{number}/kept": b"kept" for number in range(directories)}, latency=latency)
    made = {f"d{number % directories}/new{number}": b"new" for number in range(files)}
    command = ("inotifywait", "-m", "-r", "-q", "-e", "create", "--format", "%w%f", stage.path)
    waits: list[float] = []
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(stage.path / "d0/kept", over, waits))
    with watching(stage.home / "events", stage.path, *command, watches=directories + 1) as watcher:
        eventually(lambda: stage.mounted.status()["watching"]["programs"], "the watcher is not seen")
        looking.start()
        for path, content in made.items():
            stage.act("job", "creates again", path, content)
            time.sleep(1 / _RATE)
        with suppress(AssertionError):  # which are missing is checked below
            eventually(lambda: len(watcher.lines) >= files, timeout=30 + files / 200)
        over.set()
        looking.join()
        events = watcher.lines
    stage.check(
        equal("files that were made and not reported", len({*made} - {*events}), 0),
        at_most("events", len(events), 2 * files),
        at_least("looks at another file beside that", len(waits), 20),
        at_most("seconds of the 99th of 100 looks", statistics.quantiles(waits, n=100)[98], _WAIT),
    )
    eventually(lambda: not stage.mounted.status()["watching"]["programs"], "a watcher is seen that has ended")
    stage.server.log.clear()
    time.sleep(5)  # nothing is waited for: nothing must happen
    stage.check(equal("lists while nobody watches", stage.server.log.count("list"), 0))
    stage.expected.put_all(made)
    stage.finish(Bounds(files=files))


def _look(path: Path, over: threading.Event, waits: list[float]) -> None:
    while not over.wait(0.01):
        began = time.monotonic()
        os.stat(path)
        waits.append(time.monotonic() - began)

"""Whole trees: copied in, unpacked, removed, watched; and a repository at work."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.stress.report import at_least, at_most, equal
from tests.support.waiting import eventually

from .bounds import Bounds
from .expected import tree_of
from .rewriting import put_on_disk, tree
from .stage import Stage


def copied(stage: Stage, files: int, latency: float) -> None:
    """`cp -r` of many files, then `rm -rf` of them once the server has all."""
    here = put_on_disk(stage.home / "here", tree(files, "tree")) / "tree"
    stage.start({"kept.txt": b"kept"}, latency=latency)
    stage.run("cp", "-r", here, stage.path)
    stage.rest(10 + files / 25)
    stage.expected.put_all({"tree": None, **tree_of(here, "tree")})
    stage.compare()
    stage.run("rm", "-rf", "tree", cwd=stage.path)
    for path in ("tree", *tree_of(here, "tree")):
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
    stage.server.forget()
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
    single = sum(map(stage.server.requests, ("find", "get", "update", "delete")))
    pages = 1 + (beside + files + 4 * len(places)) // 99
    stage.check(
        at_most("requests but for lists", single, 3 * (4 * len(places) + at_once) + 2 * files + 20),
        at_most("pages of lists", stage.server.requests("list"), (2 * took + 4) * pages),
    )
    # Those that were removed stand under hidden names until the next listing.
    stage.finish(Bounds(files=files, removed=4 * len(places)))


def unpacked(stage: Stage, files: int, latency: float) -> None:
    """`tar x` of many small files over a line of high latency; none is sent before all are there, as where tar is much faster."""
    here = put_on_disk(stage.home / "here", tree(files, "tree")) / "tree"
    archive = stage.home / "tree.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(here, "tree")
    stage.start({}, latency=latency, write_back_delay=300)
    stage.run("tar", "-xf", archive, cwd=stage.path)
    stage.expected.put_all({"tree": None, **tree_of(here, "tree")})
    within = 15 + 4 * files * latency / 1000 / 16
    stage.succeeds("flush", stage.path, within=within)
    stage.finish(Bounds(files=files))


def repository(stage: Stage, commits: int, files: int, latency: float) -> None:
    """`git clone` of a repository, an edit and a commit, `gc` and `fsck`; then the server's copy of it is as whole as ours."""
    origin = _origin(stage, commits, files)
    stage.start({}, latency=latency)
    work = stage.path / "work"
    stage.run("git", "clone", "--quiet", "--no-local", origin, work, what="git clone")
    for number in range(0, files, 7):
        with (work / f"src/f{number}.py").open("a") as file:
            file.write("# edited in the mount\n")
    for words in ("commit -qam edited", "gc --quiet", "fsck --full", "status --porcelain"):
        stage.run("git", "-C", work, *_WHO, *words.split(), what=f"git {words}")
    stage.expected.put_all({"work": None, **tree_of(work, "work")})
    stage.finish(Bounds(files=files * 3), within=30)
    copy = stage.home / "copy"
    for row in sorted(stage.server.rows()):
        place = copy / row.path
        if row.is_dir:
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(stage.server.content(row))
    found = subprocess.run(["git", "-C", copy / "work", "fsck", "--full"], capture_output=True, text=True)
    stage.check(equal("git fsck of the server's copy", f"{found.returncode} {found.stderr}".strip(), "0"))


def _origin(stage: Stage, commits: int, files: int) -> Path:
    """A repository on the local disk."""
    chance = random.Random(commits)
    origin = stage.home / "origin"
    (origin / "src").mkdir(parents=True)
    git = ["git", "-C", str(origin), *_WHO]
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run([*git, "init", "-q"], check=True, env=quiet)
    for commit in range(commits):
        for number in range(files) if commit == 0 else chance.sample(range(files), min(files, 5)):
            text = "\n".join(f"x{chance.random()} = {number}" for _ in range(30))
            (origin / f"src/f{number}.py").write_text(text + "\n")
        subprocess.run([*git, "add", "."], check=True, env=quiet)
        subprocess.run([*git, "commit", "-qm", f"step {commit}"], check=True, env=quiet)
    return origin


#: Seconds that a look at another file may wait for the kernel's own work on events, on a machine with other work.
_WAIT = 0.2
#: Files that the job makes in one second, so that one listing shows many of them.
_AT_ONCE = 32
_WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost", "-c", "safe.directory=*")


def watched(stage: Stage, files: int, directories: int, latency: float) -> None:
    """What the job makes is told, others' `stat` goes on, and while nobody watches nothing is asked."""
    kept = {f"d{number}/kept": b"kept" for number in range(directories)}
    stage.start(kept, latency=latency)
    events = stage.home / "events"
    with events.open("wb") as told:
        watcher = stage.begin(
            "inotifywait", "-m", "-r", "-q", "-e", "create", "--format", "%w%f", stage.path, stdout=told
        )
    eventually(lambda: stage.mounted.status()["watching"]["programs"], "the watcher is not seen")
    made = {f"d{number % directories}/new{number}": b"new" for number in range(files)}
    waits: list[float] = []
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(stage.path / "d0/kept", over, waits))
    looking.start()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(stage.server.write, made, made.values()):
            pass
    with suppress(AssertionError):  # which are not told is said below
        eventually(lambda: len(_lines(events)) >= files, timeout=30 + files / 200)
    over.set()
    looking.join()
    lines = _lines(events)
    missed = {str(stage.path / path) for path in made} - set(lines)
    stage.check(
        equal("files that were made and not told", len(missed), 0),
        at_most("events", len(lines), 2 * files),
        at_least("looks at another file meanwhile", len(waits), 20),
        at_most("seconds of the 99th of 100 looks", statistics.quantiles(waits, n=100)[98], _WAIT),
    )
    watcher.kill()
    watcher.wait()
    eventually(lambda: not stage.mounted.status()["watching"]["programs"], "a watcher is seen that has ended")
    stage.server.forget()
    time.sleep(5)  # nothing is waited for: nothing must happen
    stage.check(equal("lists while nobody watches", stage.server.requests("list"), 0))
    stage.expected.put_all(made)
    stage.finish(Bounds(files=files))


def _look(path: Path, over: threading.Event, waits: list[float]) -> None:
    while not over.wait(0.01):
        began = time.monotonic()
        os.stat(path)
        waits.append(time.monotonic() - began)


def _lines(events: Path) -> list[str]:
    return events.read_text(errors="replace").splitlines()

"""Whole trees: copied in, unpacked, removed, and a repository at work."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
import time
from pathlib import Path

from tests.stress.report import at_most, equal

from .bounds import Bounds
from .expected import tree_of
from .rewriting import put_on_disk, tree
from .stage import Stage


def copied(stage: Stage, files: int, latency: float) -> None:
    """`cp -r` of many files, then `rm -rf` of them once the server has all."""
    here = put_on_disk(stage.home / "here", tree(files, "tree")) / "tree"
    stage.start({"kept.txt": b"kept"}, latency=latency)
    with stage.doing(f"cp -r of {files:,} files, rm -rf, at {latency:g} ms", files):
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
    branches = max(
        1, directories // (4 * at_once)
    )  # each is a directory with one in it with one in it with one in it
    places = [f"{top}/a{number}/b/c/d" for top in trees for number in range(branches)]
    there: dict[str, bytes | None] = {f"kept/f{number}": b"kept" for number in range(beside)}
    made = {f"{places[number % len(places)]}/f{number}": b"goes" for number in range(files)}
    stage.start({**there, **dict.fromkeys(places), **made}, latency=latency)
    stage.run("ls", "-lR", cwd=stage.path)
    stage.server.forget()
    began = time.monotonic()
    with stage.doing(f"rm -rf of {4 * len(places):,} directories, {files:,} files, {at_once} at once", files):
        commands = "".join(f"rm -rf {top} & p{number}=$!; " for number, top in enumerate(trees))
        stage.run(
            "sh",
            "-c",
            commands + " && ".join(f"wait $p{number}" for number in range(at_once)),
            cwd=stage.path,
        )
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
    with stage.doing(f"tar x of {files:,} files at {latency:g} ms, then flush", files):
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
    with stage.doing(
        f"git clone of {commits} commits on {files} files, commit, gc, fsck at {latency:g} ms", 1
    ):
        stage.run("git", "clone", "--quiet", "--no-local", origin, work, what="git clone")
        for number in range(0, files, 7):
            with (work / f"src/f{number}.py").open("a") as file:
                file.write("# edited in the mount\n")
        for words in (
            ["commit", "-qam", "edited"],
            ["gc", "--quiet"],
            ["fsck", "--full"],
            ["status", "--porcelain"],
        ):
            stage.run("git", "-C", work, *_WHO, *words, what=f"git {words[0]}")
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


_WHO = ("-c", "user.name=Somebody", "-c", "user.email=somebody@localhost", "-c", "safe.directory=*")


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
